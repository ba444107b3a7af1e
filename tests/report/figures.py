"""A report written by hand: a teacher, a chain of three stages, and a branch that did not help."""

from dataclasses import replace

from mlcompress.gate import Checked
from mlcompress.report import chain
from mlcompress.report.rows import Memory, Ratio, Report, Row, Score, Skipped, Timing

TEACHER, STUDENT, PRUNED = "models/teacher.onnx", "out/student.onnx", "out/pruned.onnx"


def ratio(value: float, low: float, high: float, verdict: str, against: str = TEACHER) -> Ratio:
    return Ratio(value, low, high, verdict, against)


def timing(
    p50: float, p90: float, to_baseline: Ratio, to_parent: Ratio | None = None, fallback: int = 0
) -> Timing:
    return Timing("cpu", 1, 1, p50, p90, to_baseline, to_parent, fallback)


_LIKE_TEACHER = ratio(0.39, 0.37, 0.41, "faster")
_SAME = "no measurable difference"

ROWS = chain.link(
    (
        Row(
            TEACHER,
            "a" * 64,
            2_791_234,
            2_581_234,
            696_042,
            31_200_000,
            score=Score("top1", 0.9243, 10_000, 0.9189, 0.9293),
            timings=(timing(18.21, 19.03, ratio(1.0, 1.0, 1.0, _SAME)),),
            memory=Memory(91_000_000, 38.2),
        ),
        Row(
            STUDENT,
            "b" * 64,
            712_345,
            660_000,
            175_000,
            8_100_000,
            stage="distill",
            summary="student at width 0.5",
            parent_path=TEACHER,
            parent_sha256="a" * 64,
            score=Score("top1", 0.9188, 10_000, 0.9133, 0.9240, fixed=40, broken=95),
            timings=(timing(7.1, 7.6, _LIKE_TEACHER, _LIKE_TEACHER),),
        ),
        Row(
            PRUNED,
            "c" * 64,
            712_345,
            310_000,
            175_000,
            8_100_000,
            stage="prune",
            summary="50 % of the elements",
            parent_path=STUDENT,
            parent_sha256="b" * 64,
            score=Score("top1", 0.9235, 10_000, 0.9181, 0.9285, fixed=102, broken=110),
            timings=(timing(7.2, 7.7, _LIKE_TEACHER, ratio(1.01, 0.96, 1.05, _SAME, STUDENT)),),
            skipped=(Skipped("fc", "named in skip"),),
        ),
        Row(
            "out/dynamic.onnx",
            "e" * 64,
            2_900_000,
            2_300_000,
            696_042,
            31_200_000,
            stage="quantize",
            summary="dynamic int8",
            parent_path=TEACHER,
            parent_sha256="a" * 64,
            score=Score("top1", 0.9, 10_000, 0.894, 0.9057, fixed=57, broken=300),
            timings=(timing(30.0, 33.3, ratio(1.65, 1.5, 1.8, "slower"), fallback=3),),
        ),
        Row(
            "out/int8.onnx",
            "d" * 64,
            190_000,
            170_000,
            175_000,
            7_000_000,
            stage="quantize",
            summary="static int8",
            parent_path=PRUNED,
            parent_sha256="c" * 64,
            score=Score("top1", 0.9151, 10_000, 0.9095, 0.9204),
            timings=(
                timing(4.0, 4.3, ratio(0.22, 0.2, 0.24, "faster"), ratio(0.56, 0.52, 0.6, "faster", PRUNED)),
            ),
            warnings=("2 Conv stay in float",),
        ),
    )
)

REPORT = Report(
    ROWS,
    title="Fashion-MNIST ResNet",
    limits=(
        Checked("max_drop", 0.01, 0.0092, "pass", "0.0092"),
        Checked("min_speedup", 5.0, 4.545, "inconclusive", "4.55x (from 4.17x to 5.00x over repeats)"),
    ),
    environment={"onnxruntime": "1.32.0", "cpu": "Xeon"},
)

ALONE = Report((replace(ROWS[0], score=None, timings=(), memory=None, macs=None),))
"""One file without a card, nothing measured."""
