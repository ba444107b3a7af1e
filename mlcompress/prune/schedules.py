"""In how many steps the amount is reached, and how many epochs of fine-tuning follow each.

Adding a schedule is adding one function here. It gets the epochs of the stage and gives its steps.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mlcompress.recipe.base import Count
from mlcompress.registry import Registry

schedules = Registry("schedule")

Steps = Annotated[int, Field(ge=2, le=1000, description="cuts, each followed by fine-tuning if there is any")]


@dataclass(frozen=True)
class Step:
    """One cut and what follows it."""

    share: float
    """Of the amount to remove in all, what is gone after this step; 1 in the last."""
    epochs: int
    """Of fine-tuning after it."""


@schedules
def oneshot(epochs: Count) -> list[Step]:
    """Everything at once, then all epochs."""
    return [Step(1.0, epochs)]


@schedules
def iterative(epochs: Count, *, steps: Steps = 5) -> list[Step]:
    """Equal steps, share_k = k / n, and equal parts of the epochs (Han et al., "Learning both Weights and
    Connections", 2015)."""
    return [Step(k / steps, epochs * k // steps - epochs * (k - 1) // steps) for k in range(1, steps + 1)]


@schedules
def gradual(
    epochs: Count,
    *,
    steps: Steps = 5,
    initial: Annotated[float, Field(ge=0, lt=1, description="share of the amount that goes first")] = 0.1,
    span: Annotated[
        float, Field(gt=0, le=1, description="share of the epochs before the last cut; the rest holds")
    ] = 0.6,
) -> list[Step]:
    """Much at first, little later: share_k = 1 + (initial - 1) * (1 - k / (n - 1))^3, k = 0 ... n - 1, then
    the amount is held (Zhu and Gupta, "To prune, or not to prune", 2017)."""
    before = min(epochs - 1, max(steps - 1, round(span * epochs)))
    ends = [before * k // (steps - 1) for k in range(steps)] + [epochs]
    shares = [1 + (initial - 1) * (1 - k / (steps - 1)) ** 3 for k in range(steps)]
    return [Step(share, ends[k + 1] - ends[k]) for k, share in enumerate(shares)]
