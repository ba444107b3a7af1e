"""How important a unit is: a group in, one score per unit out. Low scores are removed first.

A *unit* is the smallest thing that can go: a channel with all its slices, or one weight. The same function
serves every granularity, because a group only says which weights belong to which unit.

Adding a criterion is adding one function here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcompress.registry import Registry

criteria = Registry("criterion")

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """The weights of a family of units.

    `slices` has one float64 array `[units, k]` for each tensor that the family touches: row u holds the
    weights that disappear with unit u. `first` counts those of them that produce the units; they come first.
    """

    slices: tuple[NDArray[np.float64], ...]
    first: int
    rng: np.random.Generator


@criteria
def l2(group: Group) -> Scores:
    """Mean over the tensors of the unit's L2 norm: sqrt(sum w^2), producers and consumers alike.

    The group form of magnitude pruning (Fang et al., "DepGraph", 2023), with the root taken.
    """
    return _mean([np.sqrt(np.square(part).sum(axis=1)) for part in group.slices])


@criteria
def l1(group: Group) -> Scores:
    """Mean over the tensors of the unit's L1 norm: sum |w|, producers and consumers alike.

    The group form of Li et al., "Pruning Filters for Efficient ConvNets", 2017.
    """
    return _mean([np.abs(part).sum(axis=1) for part in group.slices])


@criteria
def l2_first(group: Group) -> Scores:
    """L2 norm of the weights that produce the unit: sqrt(sum w^2) (He et al., "Soft Filter Pruning",
    2018)."""
    return _mean([np.sqrt(np.square(part).sum(axis=1)) for part in group.slices[: group.first]])


@criteria
def l1_first(group: Group) -> Scores:
    """L1 norm of the weights that produce the unit: sum |w| (Li et al., "Pruning Filters", 2017)."""
    return _mean([np.abs(part).sum(axis=1) for part in group.slices[: group.first]])


@criteria
def random(group: Group) -> Scores:
    """A seeded draw from [0, 1): the baseline that every criterion should beat."""
    return group.rng.random(len(group.slices[0]))


def _mean(parts: list[NDArray[np.float64]]) -> Scores:
    total: Scores = np.mean(np.stack(parts), axis=0)
    return total
