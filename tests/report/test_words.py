"""Wording: factors carry a direction, percent points, intervals, and what did not help is said."""

from dataclasses import replace
from fractions import Fraction
from math import comb

import pytest

from mlcompress.report import words
from mlcompress.report.rows import Ratio, Report, Row, Score, Timing

BASE = Row("base.onnx", "a", 1000, 900, 100, 1_000_000, score=Score("top1", 0.90, 400, 0.867, 0.926))


def said(row: Row, base: Row = BASE, measured: bool = True) -> list[str]:
    return [finding.text for finding in words.findings(Report((base, row), measured=measured), row)]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_999, "1.00 MB"),
        (2_791_234, "2.79 MB"),
        (3 * 10**9, "3.00 GB"),
    ],
)
def test_size(count, text):
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "not measured"),
        (0, "0"),
        (999, "999"),
        (696_042, "696 k"),
        (999_600, "1 M"),
        (31_234_567, "31.2 M"),
    ],
)
def test_count(number, text):
    assert words.count(number) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.25, "4.00x smaller"), (1.3, "1.30x larger"), (1.0, "same"), (0.995, "same"), (0.98, "1.02x smaller")],
)
def test_a_factor_is_never_below_one(ratio, text):
    assert words.factor(ratio, "smaller", "larger") == text


def test_labels_are_as_short_as_they_can_be_told_apart():
    rows = [replace(BASE, path=path) for path in ("a/m.onnx", "b/m.onnx", "b/int8.onnx", "m.onnx")]
    assert words.labels(rows) == ("a/m.onnx", "b/m.onnx", "int8.onnx", "m.onnx")


def test_one_file_given_twice_keeps_one_label():
    assert words.labels([BASE, BASE]) == ("base.onnx", "base.onnx")


def test_percent_points_for_a_proportion_and_the_unit_of_anything_else():
    assert words.change(Score("top1", 0.91, 10), Score("top1", 0.92, 10)) == "-1.00 pt"
    assert words.change(Score("mse", 0.25, 10), Score("mse", 0.2, 10)) == "+0.05"
    assert words.change(Score("f1", 0.5, 10), Score("top1", 0.5, 10)) == "not measured"
    assert words.metric(Score("agreement", 0.987, 10)) == "98.70 %"
    assert words.metric(Score("snr", 31.4159, 10)) == "31.42"


def test_smaller_only_when_gzipped():
    assert said(replace(BASE, compressed_bytes=300))[0] == "not smaller; smaller only when gzipped (3.00x)"
    assert (
        said(replace(BASE, bytes=1200, compressed_bytes=300))[0]
        == "1.20x larger; smaller only when gzipped (3.00x)"
    )
    assert said(replace(BASE, bytes=500))[0] == "2.00x smaller (1.00 kB to 500 B)"
    assert said(replace(BASE))[0] == "not smaller"


def timed(value: float, verdict: str, **options: object) -> tuple[Timing, ...]:
    return (
        Timing(
            "cpu", 1, 1, 5.0, 6.0, Ratio(value, value - 0.05, value + 0.05, verdict, "base.onnx"), **options
        ),
    )


def test_fewer_macs_that_bought_no_time_are_named():
    row = replace(BASE, macs=810_000, timings=timed(1.11, "slower"))
    assert said(row)[1] == "1.11x slower on cpu, although it has 19 % fewer MACs"
    row = replace(BASE, timings=timed(0.99, "no measurable difference"))
    assert said(row)[1] == "no measurable difference on cpu"


def test_a_fall_back_to_another_provider_is_an_outcome():
    row = replace(BASE, timings=timed(0.5, "faster", fallback_nodes=7))
    assert said(row)[1:3] == ["2.00x faster on cpu", "7 nodes did not run on cpu"]


def test_metric_outcomes():
    near = replace(BASE, score=Score("top1", 0.88, 400, 0.845, 0.908))
    assert said(near)[-1] == "top1 -2.00 pt (90.00 % to 88.00 %, 400 samples); the 95 % intervals overlap"
    far = replace(BASE, score=Score("top1", 0.70, 400, 0.653, 0.743))
    assert said(far)[-1] == "top1 -20.00 pt (90.00 % to 70.00 %, 400 samples)"
    assert words.findings(Report((BASE, far)), far)[-1].kind == "bad"
    assert said(replace(BASE, score=None))[-1] == "accuracy not measured against the baseline"


@pytest.mark.parametrize("fixed", [0, 1, 2, 5, 17, 102])
def test_mcnemar_agrees_with_its_definition(fixed):
    for broken in range(fixed, fixed + 40):
        p = min(
            Fraction(1),
            2 * sum(Fraction(comb(fixed + broken, k), 2 ** (fixed + broken)) for k in range(fixed + 1)),
        )
        assert (
            words.may_be_chance(fixed, broken) == words.may_be_chance(broken, fixed) == (p >= Fraction(1, 20))
        )
    assert words.may_be_chance(0, 5)  # p = 1/16
    assert not words.may_be_chance(0, 6)  # p = 1/32


def test_paired_counts_decide_where_there_are_any():
    """Intervals overlap both times; pairs tell noise from a small but certain loss."""
    noise = replace(BASE, score=Score("top1", 0.89, 400, 0.855, 0.917, fixed=20, broken=24))
    assert (
        said(noise)[-1]
        == "top1 -1.00 pt (90.00 % to 89.00 %, 400 samples: 20 fixed, 24 broken); may be chance"
    )
    loss = replace(BASE, score=Score("top1", 0.88, 400, 0.845, 0.908, fixed=0, broken=8))
    assert said(loss)[-1] == "top1 -2.00 pt (90.00 % to 88.00 %, 400 samples: 0 fixed, 8 broken)"


def test_equal_outputs_have_an_infinite_snr_and_no_difference():
    base = replace(BASE, score=Score("snr", float("inf"), 400))
    for value, shown in ((float("inf"), "inf"), (31.4, "31.4")):
        row = replace(base, score=Score("snr", value, 400))
        assert said(row, base)[-1] == f"snr – (inf to {shown}, 400 samples)"


def test_the_same_predictions_are_no_finding_about_chance():
    same = replace(BASE, score=replace(BASE.score, fixed=0, broken=0))
    assert said(same)[-1] == "top1 +0.00 pt (90.00 % to 90.00 %, 400 samples: 0 fixed, 0 broken)"


def test_short_times_keep_three_decimals():
    assert (words.ms(18.214), words.ms(0.0812)) == ("18.21", "0.081")


def test_a_smaller_error_is_good_and_a_larger_one_bad():
    base = replace(BASE, score=Score("mse", 0.2, 400))
    for value, kind in ((0.1, "good"), (0.3, "bad")):
        row = replace(base, score=Score("mse", value, 400))
        assert words.findings(Report((base, row)), row)[-1].kind == kind


def test_synthetic_data_and_card_figures_are_noticed():
    row = replace(
        BASE, path="fast.onnx", synthetic=True, score=Score("top1", 0.9, 64, synthetic=True, source="card")
    )
    notices = words.notices(Report((BASE, row)))
    assert notices[0] == "SYNTHETIC DATA: made with random numbers, not with data of the task: fast.onnx"
    assert notices[1].startswith("SYNTHETIC DATA: the metric was computed on random inputs")
    assert "from the cards" in notices[2]
    assert said(row)[-1].endswith("on synthetic data: it says nothing about the task")
    assert words.notices(Report((BASE,))) == []
    assert "Nothing was measured" in words.notices(Report((BASE,), measured=False))[0]
