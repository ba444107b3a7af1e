"""A float weight as the levels and scales of a scheme, for weights that are decoded to float."""

import numpy as np

from mlcompress.graph.encodings import Codes
from mlcompress.quantize import levels
from mlcompress.quantize.schemes import UNSCALED, Grid, How, schemes
from mlcompress.registry import Choice

_HALF = (2.0**-14, 65504.0)
"""Range of scales in which fp16 numbers have their full 11 bits."""


def encode(
    array: np.ndarray,
    axes: tuple[int, ...],
    scheme: Choice | str = "int8",
    *,
    symmetric: bool = True,
    block: int | None = None,
    scales: np.ndarray | None = None,
) -> Codes:
    """Levels and scales of `array`, float32: a scale for each slice along `axes` (none: one for the tensor).

    With `block`, a scale for so many successive elements of a slice; where the slice is no multiple of it,
    for the next smaller divisor of its length, and for the whole slice where that is less than half of it.
    Scales of blocks are fp16 numbers, which costs a thousandth of a step. `scales` (shaped to broadcast; not
    with `block`) are used as they are.
    """
    choice = schemes.choose(scheme) if isinstance(scheme, str) else scheme
    if choice.name in UNSCALED:
        return Codes(schemes.bind(choice)(array.reshape(1, -1), How()).levels.reshape(array.shape))
    view, groups = (array, axes) if block is None else _blocks(array, axes, block)
    others = tuple(axis for axis in range(view.ndim) if axis not in groups)
    order = (*groups, *others)
    moved = np.transpose(view, order)
    rows = moved.reshape(int(np.prod([view.shape[axis] for axis in groups])), -1)
    given = None if scales is None else np.transpose(scales, order).reshape(-1, 1)
    grid: Grid = schemes.bind(choice)(rows, How(symmetric, scales=given))
    if block is not None and symmetric:
        grid = _with_half_scales(rows, choice, grid)
    stored = np.transpose(grid.levels.reshape(moved.shape), np.argsort(order))
    shape = tuple(view.shape[axis] if axis in groups else 1 for axis in range(view.ndim))
    return Codes(
        np.ascontiguousarray(stored),
        None if grid.scale is None else grid.scale.reshape(shape),
        None if grid.zero is None else grid.zero.reshape(shape),
        shape=None if view.shape == array.shape else array.shape,
    )


def _blocks(array: np.ndarray, axes: tuple[int, ...], block: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """A view with an axis of blocks, and the axes of it that have a scale for each index.

    Blocks lie in what follows the channel axes (Conv, Gather, RNN), or in the axis before them (MatMul).
    """
    if axes == tuple(range(len(axes))):
        lead = array.shape[: len(axes)]
        length = _length(array.size // max(1, int(np.prod(lead))), block)
        return array.reshape(*lead, -1, length), (*axes, len(axes))
    place = axes[0] - 1
    length = _length(array.shape[place], block)
    view = array.reshape(*array.shape[:place], -1, length, *array.shape[place + 1 :])
    return view, (place, *(axis + 1 for axis in axes))


def _length(row: int, block: int) -> int:
    """The largest divisor of a row's length up to `block`; the row itself where that is too short."""
    found = next(length for length in range(min(row, block), 0, -1) if row % length == 0)
    return found if 2 * found >= min(row, block) else row


def _with_half_scales(rows: np.ndarray, choice: Choice, grid: Grid) -> Grid:
    """The same levels for scales that are fp16 numbers, where these are no subnormal ones."""
    if grid.scale is None or grid.scale.min() < _HALF[0] or grid.scale.max() > _HALF[1]:
        return grid
    scales = levels.usable(grid.scale.astype(np.float16))
    again: Grid = schemes.bind(choice)(rows, How(scales=scales))
    return again
