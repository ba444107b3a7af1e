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
    """Units to keep: those above one threshold on score / family mean, chosen to remove `ratio` of all units.

    Norms of layers of different fan-in are not comparable; divided by the family's mean they are
    (Fang et al., "DepGraph", 2023). Rounding moves the sum, so the threshold is searched, not read off.
    """
    scaled = [f.scores if f.comparable else f.scores / (f.scores.mean() or 1.0) for f in families]
    wanted = sum(family.original for family in families) * (1 - ratio)
    candidates = np.unique(np.concatenate(scaled)) if scaled else np.empty(0)

    def kept(threshold: float) -> dict[str, int]:
        return {f.name: f.keep(int((s >= threshold).sum())) for f, s in zip(families, scaled, strict=True)}

    low, high = 0, len(candidates)
    while low < high:  # the first threshold at which few enough are kept
        middle = (low + high) // 2
        if sum(kept(candidates[middle]).values()) > wanted:
            low = middle + 1
        else:
            high = middle
    near = [kept(candidates[i]) for i in (low - 1, low) if 0 <= i < len(candidates)]
    return min(near, key=lambda counts: abs(sum(counts.values()) - wanted), default={})


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
