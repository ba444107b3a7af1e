"""Limits of a recipe against what was measured. A limit inside the noise is not met."""

from dataclasses import dataclass
from typing import Any, Literal

from mlcompress.recipe.sections import Gate

Verdict = Literal["pass", "missed", "inconclusive"]

_ROUNDING = 1e-9
"""0.9243 - 0.9143 is 0.010000000000000009 in binary: a limit of 0.01 must still hold."""


@dataclass(frozen=True)
class Figures:
    """What limits are compared with; None where it was not measured.

    `ratio`, `ratio_low` and `ratio_high` are latency after / before; `metric_*` in the metric's own unit.
    """

    bytes_before: int
    bytes_after: int
    metric_before: float | None = None
    metric_after: float | None = None
    higher_is_better: bool = True
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    latency_ms: float | None = None
    slower: bool = False
    """Slower beyond noise and beyond what two sessions of one file may differ by."""


@dataclass(frozen=True)
class Checked:
    """One limit: its name in the recipe, the limit, what was measured, and whether it holds."""

    name: str
    limit: float
    value: float | None
    verdict: Verdict
    text: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "limit": self.limit, "value": self.value, "verdict": self.verdict}


def check(gate: Gate, figures: Figures) -> list[Checked]:
    """Every limit that the recipe sets, in the recipe's order."""
    checks = {
        "max_drop": lambda limit: _at_most("max_drop", limit, _drop(figures)),
        "max_relative_drop": lambda limit: _at_most("max_relative_drop", limit, _relative_drop(figures)),
        "min_metric": lambda limit: _at_least("min_metric", limit, figures.metric_after),
        "max_metric": lambda limit: _at_most("max_metric", limit, figures.metric_after),
        "min_speedup": lambda limit: _speedup(limit, figures),
        "max_latency_ms": lambda limit: _at_most("max_latency_ms", limit, figures.latency_ms),
        "max_size_ratio": lambda limit: _at_most(
            "max_size_ratio", limit, figures.bytes_after / figures.bytes_before
        ),
        "max_bytes": lambda limit: _at_most("max_bytes", limit, figures.bytes_after),
    }
    limits = {name: getattr(gate, name) for name in checks}
    return [checks[name](limit) for name, limit in limits.items() if limit is not None]


def not_slower(figures: Figures) -> Checked:
    """The limit that quantize sets by itself: not slower than its input, beyond noise."""
    verdict: Verdict = "missed" if figures.slower else "pass"
    return Checked("not_slower", 1.0, figures.ratio, verdict, _latency_text(figures))


def missed(checked: list[Checked]) -> list[Checked]:
    """Those that do not hold; an inconclusive one does not."""
    return [item for item in checked if item.verdict != "pass"]


def needs_metric(gate: Gate) -> bool:
    """Whether a limit can only be checked with evaluation data."""
    limits = (gate.max_drop, gate.max_relative_drop, gate.min_metric, gate.max_metric)
    return any(limit is not None for limit in limits)


def _drop(figures: Figures) -> float | None:
    if figures.metric_before is None or figures.metric_after is None:
        return None
    drop = figures.metric_before - figures.metric_after
    return drop if figures.higher_is_better else -drop


def _relative_drop(figures: Figures) -> float | None:
    drop = _drop(figures)
    return None if drop is None or not figures.metric_before else drop / abs(figures.metric_before)


def _at_most(name: str, limit: float, value: float | None) -> Checked:
    if value is None:
        return Checked(name, limit, None, "missed", "not measured")
    return Checked(name, limit, value, "pass" if value <= limit + _ROUNDING else "missed", f"{value:.4g}")


def _at_least(name: str, limit: float, value: float | None) -> Checked:
    if value is None:
        return Checked(name, limit, None, "missed", "not measured")
    return Checked(name, limit, value, "pass" if value >= limit - _ROUNDING else "missed", f"{value:.4g}")


def _speedup(limit: float, figures: Figures) -> Checked:
    if figures.ratio is None or figures.ratio_low is None or figures.ratio_high is None:
        return Checked("min_speedup", limit, None, "missed", "not measured")
    verdict: Verdict = "inconclusive"
    if 1 / figures.ratio_high >= limit:
        verdict = "pass"
    elif 1 / figures.ratio_low < limit:
        verdict = "missed"
    return Checked("min_speedup", limit, 1 / figures.ratio, verdict, _latency_text(figures))


def _latency_text(figures: Figures) -> str:
    if figures.ratio is None or figures.ratio_low is None or figures.ratio_high is None:
        return "not measured"
    least, most = 1 / figures.ratio_high, 1 / figures.ratio_low
    return f"{1 / figures.ratio:.2f}x (from {least:.2f}x to {most:.2f}x over repeats)"
