"""Limits against figures; a limit that lies inside the noise does not hold."""

from dataclasses import replace

import pytest

from mlcompress.gate import Figures, check, missed, needs_metric, not_slower
from mlcompress.recipe.sections import Gate

FIGURES = Figures(
    bytes_before=1000, bytes_after=250, metric_before=0.9243, metric_after=0.9143,
    ratio=0.5, ratio_low=0.4, ratio_high=0.625, latency_ms=2.0,
)  # fmt: skip


def verdicts(figures: Figures = FIGURES, **limits: float) -> list[str]:
    return [item.verdict for item in check(Gate(**limits), figures)]


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({"max_drop": 0.01}, "pass"),  # 0.0100000000000000009 in binary
        ({"max_drop": 0.0099}, "missed"),
        ({"max_relative_drop": 0.011}, "pass"),
        ({"max_relative_drop": 0.010}, "missed"),
        ({"min_metric": 0.9143}, "pass"),
        ({"min_metric": 0.92}, "missed"),
        ({"max_size_ratio": 0.25}, "pass"),
        ({"max_size_ratio": 0.24}, "missed"),
        ({"max_bytes": 249}, "missed"),
        ({"max_latency_ms": 2}, "pass"),
        ({"max_latency_ms": 1.9}, "missed"),
        ({"min_speedup": 1.6}, "pass"),
        ({"min_speedup": 2.0}, "inconclusive"),
        ({"min_speedup": 2.6}, "missed"),
    ],
)
def test_each_limit(limits: dict[str, float], verdict: str) -> None:
    assert verdicts(**limits) == [verdict]


def test_an_error_metric_drops_upwards() -> None:
    mse = replace(FIGURES, metric_before=0.10, metric_after=0.12, higher_is_better=False)
    assert verdicts(mse, max_drop=0.01) == ["missed"]
    assert verdicts(mse, max_drop=0.03, max_metric=0.12) == ["pass", "pass"]
    assert verdicts(replace(mse, metric_after=0.05), max_drop=0) == ["pass"]


def test_what_was_not_measured_does_not_hold() -> None:
    bare = Figures(bytes_before=10, bytes_after=10)
    assert verdicts(bare, max_drop=1, min_speedup=0.1, max_latency_ms=99) == ["missed"] * 3


def test_an_inconclusive_limit_is_missed() -> None:
    assert [item.name for item in missed(check(Gate(min_speedup=2), FIGURES))] == ["min_speedup"]


def test_only_limits_on_the_metric_need_data() -> None:
    assert needs_metric(Gate(max_drop=0.1))
    assert not needs_metric(Gate(min_speedup=2, max_bytes=3))


def test_slower_is_a_limit_of_its_own() -> None:
    assert not_slower(FIGURES).verdict == "pass"
    assert not_slower(replace(FIGURES, slower=True)).verdict == "missed"
