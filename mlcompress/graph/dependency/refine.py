"""Which axes of a reshaped tensor correspond (row-major order)."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlcompress.graph.shape_arguments import Size, quotient


@dataclass(frozen=True)
class Factor:
    """A run of elements that the reshape keeps together."""

    size: int | str
    source: int
    """Axis before."""
    target: int
    """Axis after."""


@dataclass
class Block:
    """Axes before and after whose products are equal; `factors` refine both, None where nothing does."""

    sources: list[int]
    targets: list[int]
    factors: list[Factor] | None


_Axes = list[tuple[int, Size]]


def refine(before: Sequence[Size], after: Sequence[Size]) -> list[Block]:
    """Blocks of corresponding axes; axes of length 1 belong to none.

    (6, 4) -> (2, 3, 4): [6 = 2*3], [4]. Two axes whose names are equal have equal lengths. Axes are matched
    from the front, then from the back; what is left in the middle is one block without factors.
    """
    left: _Axes = [(axis, size) for axis, size in enumerate(before) if size != 1]
    right: _Axes = [(axis, size) for axis, size in enumerate(after) if size != 1]
    front, left, right = _match(left, right)
    back, left, right = _match(left[::-1], right[::-1])
    for block in back:
        for part in (block.sources, block.targets, block.factors or []):
            part.reverse()
    middle = (
        [Block([axis for axis, _ in left[::-1]], [axis for axis, _ in right[::-1]], None)]
        if left or right
        else []
    )
    return front + middle + back[::-1]


def _match(left: _Axes, right: _Axes) -> tuple[list[Block], _Axes, _Axes]:
    """Blocks in order until one fails; the rest of both sides."""
    blocks: list[Block] = []
    while left and right:
        found = _block(left, right)
        if found is None:
            break
        blocks.append(found)
        left, right = left[len(found.sources) :], right[len(found.targets) :]
    return blocks, left, right


def _block(left: _Axes, right: _Axes) -> Block | None:
    """The smallest aligned block at the start of both sides, or None where there is no common refinement."""
    i = j = 0
    a, b = left[0][1], right[0][1]
    factors: list[Factor] = []
    while a != b:
        if not isinstance(a, int) or not isinstance(b, int) or a == 0 or b == 0:
            return None
        if a % b == 0:
            factors.append(Factor(b, left[i][0], right[j][0]))
            a, j = a // b, j + 1
            if j == len(right):
                return None
            b = right[j][1]
        elif b % a == 0:
            factors.append(Factor(a, left[i][0], right[j][0]))
            b, i = b // a, i + 1
            if i == len(left):
                return None
            a = left[i][1]
        else:
            return None
    if a is None:
        return None
    factors.append(Factor(a, left[i][0], right[j][0]))
    return Block([axis for axis, _ in left[: i + 1]], [axis for axis, _ in right[: j + 1]], factors)


def target_sizes(
    before: Sequence[Size], target: Sequence[int | None], declared: Sequence[Size]
) -> list[Size]:
    """Lengths after Reshape, from its target (0 copies, -1 is inferred, None is computed at run time).

    `declared`: the output's shape as the file has it, or []; used where the target does not say.
    """
    after: list[Size] = []
    for axis, entry in enumerate(target):
        known = declared[axis] if axis < len(declared) else None
        after.append(
            before[axis] if entry == 0 and axis < len(before) else entry if entry and entry > 0 else known
        )
    open_ = [axis for axis, size in enumerate(after) if size is None]
    if len(open_) == 1 and None not in before:
        after[open_[0]] = quotient(before, [size for size in after if size is not None])
    return after
