"""How figures are written, the same in every format, and what they mean in plain words.

Ratios are after / before. Factors are never below 1 and always carry their direction: `1.75x faster`,
`3.93x smaller`. Accuracies are percent, their differences percent points (`pt`).
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mlcompress import metrics
from mlcompress.report.rows import Ratio, Report, Row, Score, Source, Timing

NOT_MEASURED = "not measured"
SAME = 0.01
"""Sizes and counts closer than this share are called the same."""

Kind = Literal["good", "bad", "neutral"]
PROPORTIONS = ("top1", "top5", "agreement")


@dataclass(frozen=True)
class Finding:
    """One outcome of one model against the baseline, and whether it is what the user hoped for."""

    kind: Kind
    text: str


def plain(text: str) -> str:
    """`text` without characters that no terminal, XML file or font can show."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def labels(rows: Sequence[Row]) -> tuple[str, ...]:
    """The shortest tails of the paths that tell them apart: `a/m.onnx` and `b/m.onnx`, but `int8.onnx`."""
    parts = [plain(row.path).replace(os.sep, "/").split("/") for row in rows]
    shown = []
    for own in parts:
        others = [other for other in parts if other != own]
        length = next((n for n in range(1, len(own)) if all(o[-n:] != own[-n:] for o in others)), len(own))
        shown.append("/".join(own[-length:]))
    return tuple(shown)


def size(count: int) -> str:
    """Bytes in decimal units, as file managers and package indexes count them."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= 0.999995 * unit:  # 999,999 bytes are 1.00 MB, not 1000.00 kB
            return f"{count / unit:.2f} {name}"
    return f"{count} B"


def count(number: int | None) -> str:
    """A number of parameters or MACs: `696 k`, `31.2 M`."""
    if number is None:
        return NOT_MEASURED
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 0.9995 * unit:  # 999,600 is 1 M, not 1e+03 k
            return f"{number / unit:.3g} {name}"
    return str(number)


def ms(milliseconds: float) -> str:
    """`18.21`, and `0.081` for what takes less than one."""
    return f"{milliseconds:.{3 if milliseconds < 1 else 2}f}"


def source(source: Source) -> str:
    """Where a figure comes from."""
    return "from the card" if source == "card" else source


def factor(ratio: float, less: str, more: str) -> str:
    """`0.25, smaller, larger` is `4.00x smaller`; less than a hundredth either way is `same`."""
    if abs(ratio - 1) < SAME:
        return "same"
    return f"{1 / ratio:.2f}x {less}" if ratio < 1 else f"{ratio:.2f}x {more}"


def smaller(row: Row, base: Row) -> str:
    """Bytes on disk against the baseline, in words."""
    return factor(row.bytes / base.bytes, "smaller", "larger")


def ratio(value: Ratio | None) -> str:
    """Time ratio with the range over the repeats: `0.571 (0.552–0.590)`."""
    if value is None:
        return NOT_MEASURED
    return f"{value.value:.3f} ({value.low:.3f}–{value.high:.3f})"


def verdict(value: Ratio | None) -> str:
    """`1.75x faster`, `1.30x slower`, `no measurable difference`."""
    if value is None:
        return NOT_MEASURED
    if value.verdict == "faster":
        return f"{1 / value.value:.2f}x faster"
    return f"{value.value:.2f}x slower" if value.verdict == "slower" else value.verdict


def shown_ratio(timing: Timing) -> Ratio | None:
    """Against the baseline; a card knows only the model that its stage started from."""
    return timing.to_parent if timing.source == "card" else timing.to_baseline


def twin(timing: Timing) -> str:
    """What else than the file itself was timed."""
    return f" (of its {timing.of})" if timing.of else ""


def setting(timing: Timing) -> str:
    """`cpu, batch 1, 1 thread`."""
    return (
        f"{timing.provider}, batch {timing.batch_size}, {timing.threads} thread{'s' * (timing.threads != 1)}"
    )


def settings(report: Report) -> tuple[str, ...]:
    """Every provider setting of the report, in order of appearance."""
    return tuple(dict.fromkeys(setting(timing) for row in report.rows for timing in row.timings))


def timing_at(row: Row, wanted: str) -> Timing | None:
    """The row's latency under one setting."""
    return next((timing for timing in row.timings if setting(timing) == wanted), None)


def metric(score: Score | None) -> str:
    """`92.43 %` for a proportion, four significant digits for anything else."""
    if score is None:
        return NOT_MEASURED
    return f"{score.value:.2%}".replace("%", " %") if score.name in PROPORTIONS else f"{score.value:.4g}"


def interval(score: Score | None) -> str:
    """95 % interval of the metric, or a dash for a metric that has none."""
    if score is None or score.low is None or score.high is None:
        return "–"
    if score.name in PROPORTIONS:
        return f"{100 * score.low:.2f} to {100 * score.high:.2f} %"
    return f"{score.low:.4g} to {score.high:.4g}"


def change(score: Score | None, base: Score | None) -> str:
    """Metric after minus before: percent points for a proportion; a dash where one of them is infinite."""
    if score is None or base is None or score.name != base.name:
        return NOT_MEASURED
    difference = score.value - base.value
    if not math.isfinite(difference):  # snr is infinite where outputs are equal
        return "–"
    return f"{100 * difference:+.2f} pt" if score.name in PROPORTIONS else f"{difference:+.4g}"


def may_be_chance(fixed: int, broken: int) -> bool:
    """Exact McNemar test at 5 %: were the models equally good, half of the changed samples would be fixed.

    p = min(1, 2 * sum over k <= min(fixed, broken) of C(n, k) / 2^n), n = fixed + broken (McNemar 1947).
    """
    changed = fixed + broken
    ways, total = 1, 1
    for k in range(min(fixed, broken)):
        ways = ways * (changed - k) // (k + 1)
        total += ways
    return 40 * total >= 1 << changed  # p >= 0.05 in whole numbers: 2^n overflows a float


def findings(report: Report, row: Row) -> list[Finding]:
    """What came of a model, in plain words; also what did not help."""
    base = report.base
    if row is base:
        return []
    return [_size_finding(row, base), *_latency_findings(row, base), _metric_finding(row, base)]


def _size_finding(row: Row, base: Row) -> Finding:
    disk, zipped = row.bytes / base.bytes, row.compressed_bytes / base.compressed_bytes
    if disk <= 1 - SAME:
        return Finding(
            "good", f"{factor(disk, 'smaller', 'larger')} ({size(base.bytes)} to {size(row.bytes)})"
        )
    larger = disk >= 1 + SAME
    said = f"{disk:.2f}x larger" if larger else "not smaller"
    if zipped <= 1 - SAME:
        return Finding("bad", f"{said}; smaller only when gzipped ({1 / zipped:.2f}x)")
    return Finding("bad" if larger else "neutral", said)


def _latency_findings(row: Row, base: Row) -> Iterator[Finding]:
    if not row.timings:
        why = "" if row.runs else "TorchScript: not run by onnxruntime, "
        yield Finding("neutral", f"{why}latency {NOT_MEASURED}")
    for timing in row.timings:
        compared = shown_ratio(timing)
        where = f"on {timing.provider}{twin(timing)}"
        if timing.source == "card" and compared is not None:
            where += f" than {plain(compared.against)}, says the card"
        if compared is None:
            yield Finding("neutral", f"latency {where} {NOT_MEASURED} against the baseline")
        elif compared.verdict == "faster":
            yield Finding("good", f"{verdict(compared)} {where}")
        else:
            kind: Kind = "bad" if compared.verdict == "slower" else "neutral"
            yield Finding(kind, f"{verdict(compared)} {where}{_despite(row, base)}")
        if timing.fallback_nodes:
            yield Finding("bad", f"{timing.fallback_nodes} nodes did not run on {timing.provider}")


def _despite(row: Row, base: Row) -> str:
    """MACs are not latency: say so where fewer of them bought nothing."""
    if row.macs is None or not base.macs or row.macs > base.macs * (1 - SAME):
        return ""
    return f", although it has {1 - row.macs / base.macs:.0%} fewer MACs".replace("%", " %")


def _metric_finding(row: Row, base: Row) -> Finding:
    if row.score is None or base.score is None or row.score.name != base.score.name:
        return Finding("neutral", f"accuracy {NOT_MEASURED} against the baseline")
    score, before = row.score, base.score
    pairs = f": {score.fixed} fixed, {score.broken} broken" if score.fixed is not None else ""
    shown = f"{metric(before)} to {metric(score)}, {score.samples} samples{pairs}"
    said = f"{score.name} {change(score, before)} ({shown})"
    if score.synthetic:
        return Finding("bad", f"{said}, on synthetic data: it says nothing about the task")
    if score.fixed is not None and score.broken is not None:
        if score.fixed == score.broken == 0:
            return Finding("neutral", said)
        if may_be_chance(score.fixed, score.broken):
            return Finding("neutral", f"{said}; may be chance")
    elif _overlap(score, before):
        return Finding("neutral", f"{said}; the 95 % intervals overlap")
    better = score.value >= before.value
    return Finding("good" if better == metrics.HIGHER_IS_BETTER.get(score.name, True) else "bad", said)


def _overlap(one: Score, other: Score) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def notices(report: Report) -> list[str]:
    """What a reader must know before any figure: random data, and figures that were not measured here."""
    said = []
    random = [label for label, row in zip(labels(report.rows), report.rows, strict=True) if row.synthetic]
    if random:
        said.append(
            f"SYNTHETIC DATA: made with random numbers, not with data of the task: {', '.join(random)}"
        )
    if any(row.score is not None and row.score.synthetic for row in report.rows):
        said.append(
            "SYNTHETIC DATA: the metric was computed on random inputs and says nothing about the task"
        )
    if not report.measured:
        said.append(
            "Nothing was measured for this report: latency and metric are the cards' own, of different runs"
        )
    elif any(row.runs and row.score is not None and row.score.source == "card" for row in report.rows):
        said.append("The metric is from the cards: give a recipe with data.evaluate to measure it here")
    return said


def warnings(report: Report) -> list[str]:
    """Warnings about the report, then those of each file; one line each."""
    own = [plain(text) for text in report.warnings]
    return own + [f"{plain(row.path)}: {plain(text)}" for row in report.rows for text in row.warnings]
