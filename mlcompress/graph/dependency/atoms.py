"""Atoms: the indivisible elements of tensor axes, and which of them can only be removed together.

A tracked axis of length n is an int64 array of n atoms, where -1 is an element that must stay. An axis that
is not tracked is None, which means n times -1. Rules only record what they learn; `solve` finds the connected
components at the end, so that a rule costs a few array operations whatever the width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Axis = Ids | None
_MOST = 2**26
"""Atoms of one analysis; no real net comes near, but a damaged file may declare lengths beyond all memory."""


@dataclass(frozen=True)
class Classes:
    """Connected components of atoms. Arrays are indexed by atom."""

    root: Ids
    """Smallest atom of the component."""
    frozen: NDArray[np.bool_]
    """The component holds an element that must stay."""
    soft: dict[int, str]
    """Root -> why its removal is not exactly equal to masking."""

    def of(self, axis: Axis) -> Axis:
        """Atoms -> class ids, -1 where frozen; None when nothing on the axis can be removed."""
        if axis is None:
            return None
        found = np.where((axis < 0) | self.frozen[axis], -1, self.root[axis])
        return found if (found >= 0).any() else None


class Atoms:
    """Hands out atoms and records which of them belong together."""

    def __init__(self) -> None:
        self._count = 0
        self._virtual: list[tuple[int, int]] = []
        self._pairs: list[tuple[Ids, Ids]] = []
        self._frozen: list[Ids] = []
        self._soft: list[tuple[Ids, str]] = []

    def fresh(self, length: int, *, virtual: bool = False) -> Axis:
        """Atoms for a new axis; None below length 2, and where there are too many.

        Virtual: made by broadcasting, all elements equal.
        """
        if length < 2 or self._count + length > _MOST:
            return None
        start = self._count
        self._count += length
        if virtual:
            self._virtual.append((start, self._count))
        return np.arange(start, self._count, dtype=np.int64)

    def is_virtual(self, axis: Ids) -> bool:
        """Whether the axis was made by broadcasting, with no weights of its own."""
        return any(start <= axis[0] < stop for start, stop in self._virtual)

    def unify(self, one: Axis, other: Axis) -> None:
        """Element i of one axis goes with element i of the other; with None or unequal lengths, both stay."""
        if one is None or other is None or len(one) != len(other):
            self.freeze(one)
            self.freeze(other)
            return
        self._frozen += [one[other < 0], other[one < 0]]
        both = (one >= 0) & (other >= 0) & (one != other)
        self._pairs.append((one[both], other[both]))

    def unify_rows(self, table: Ids) -> Ids:
        """All elements of a row of the 2-D `table` go together; returns the first column."""
        first = table[:, 0].copy()
        self.unify(np.repeat(first, table.shape[1] - 1), table[:, 1:].reshape(-1))
        return first

    def freeze(self, axis: Axis) -> None:
        """These elements stay."""
        if axis is not None:
            self._frozen.append(axis)

    def soften(self, axis: Axis, reason: str) -> None:
        """Removing these elements changes what the remaining ones compute, by `reason`."""
        if axis is not None:
            self._soft.append((axis[axis >= 0], reason))

    def solve(self) -> Classes:
        """Connected components over everything recorded so far."""
        root = _components(self._count, self._pairs)
        frozen = np.zeros(self._count, dtype=np.bool_)
        for atoms in self._frozen:
            frozen[root[atoms[atoms >= 0]]] = True
        soft: dict[int, str] = {}
        for atoms, reason in self._soft:
            for found in np.unique(root[atoms]).tolist():
                soft.setdefault(found, reason)
        return Classes(root, frozen[root], soft)


def _components(count: int, pairs: list[tuple[Ids, Ids]]) -> Ids:
    """Smallest element of the connected component of each of `count` elements.

    Hook the larger root of every edge to the smaller one, then shorten all paths to length one; repeat until
    no edge joins two roots (Shiloach and Vishkin 1982, with minimum hooking).
    """
    root = np.arange(count, dtype=np.int64)
    if not pairs:
        return root
    left = np.concatenate([one for one, _ in pairs])
    right = np.concatenate([other for _, other in pairs])
    while True:
        one, other = root[left], root[right]
        open_ = one != other
        if not open_.any():
            return root
        left, right, one, other = left[open_], right[open_], one[open_], other[open_]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(shorter := root[root], root):
            root = shorter
