"""How many units to keep, and which."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcompress.graph.dependency.widths import nearest

KEEP_SHARE = 0.1
"""No family loses more than 90 % of its units: a layer that is cut thinner rarely recovers."""


@dataclass(frozen=True)
class Ranked:
    """A family of `units` and its scores `[units]`; `multiple` is what the kept count is rounded to."""

    name: str
    scores: NDArray[np.float64]
    multiple: int
    original: int
    """Units before the first step of an iterative schedule; shares refer to it."""
    comparable: bool = False
    """Scores mean the same in every family, so `global_` takes them as they are."""

    def floor(self) -> int:
        """The fewest units to keep."""
        return min(len(self.scores), max(self.multiple, int(np.ceil(KEEP_SHARE * self.original)), 1))

    def keep(self, count: float) -> int:
        """`count` rounded to the nearest allowed number of units to keep."""
        return max(self.floor(), nearest(count, len(self.scores), self.multiple))


def local(families: list[Ranked], ratio: float) -> dict[str, int]:
    """Units to keep: the same share of each family."""
    return {family.name: family.keep(family.original * (1 - ratio)) for family in families}


def global_(families: list[Ranked], ratio: float) -> dict[str, int]:
    """Units to keep: all but the lowest in score / mean |score| of the family; `ratio` of all units goes.

    Norms of layers of different fan-in are not comparable; divided by the family's mean they are
    (Fang et al., "DepGraph", 2023). Rounding moves the sum, so how many go is searched, not read off.
    """
    if not families:
        return {}
    scaled = [f.scores if f.comparable else f.scores / (np.abs(f.scores).mean() or 1.0) for f in families]
    wanted = sum(family.original for family in families) * (1 - ratio)
    units = sum(map(len, scaled))
    # Places in one order of all units, in which equal scores follow the order of the families.
    order = np.argsort(np.concatenate(scaled), kind="stable")
    places = np.split(np.argsort(order), np.cumsum([len(scores) for scores in scaled])[:-1])

    def kept(gone: int) -> dict[str, int]:
        return {f.name: f.keep(int((at >= gone).sum())) for f, at in zip(families, places, strict=True)}

    low, high = 0, units
    while low < high:  # the least that must go so that few enough are kept
        middle = (low + high) // 2
        if sum(kept(middle).values()) > wanted:
            low = middle + 1
        else:
            high = middle
    near = [kept(gone) for gone in (low - 1, low) if gone >= 0]
    return min(near, key=lambda counts: abs(sum(counts.values()) - wanted))


def below(families: list[Ranked], threshold: float) -> dict[str, int]:
    """Units to keep: those that score at least `threshold`."""
    return {family.name: family.keep(int((family.scores >= threshold).sum())) for family in families}


def towards(families: list[Ranked], wanted: Mapping[str, int], share: float) -> dict[str, int]:
    """Units to keep when `share` of what leads from the original to the `wanted` widths has gone."""
    keep = {}
    for family in families:
        last = wanted[family.name]
        count = family.original + share * (last - family.original)
        keep[family.name] = last if share == 1 else max(last, family.keep(count))
    return keep
