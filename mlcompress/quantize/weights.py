"""Float arrays to few-bit numbers, and the numbers that go with them."""

from typing import Any

import numpy as np

from mlcompress.quantize import levels
from mlcompress.quantize.levels import INT8_MAX
from mlcompress.quantize.schemes import Grid, How, schemes
from mlcompress.registry import Choice

BIAS_MAX = 2**30
"""Half of int32, so that bias plus accumulated products cannot overflow."""

INTEGER_SCHEMES = (
    "int8",
    "int4",
    "int2",
    "ternary",
    "binary",
    "fixed_point",
    "log2",
    "piecewise",
    "codebook",
)
"""Schemes whose levels an int8 kernel can compute with."""


def quantised(
    array: np.ndarray,
    axes: tuple[int, ...],
    scheme: Choice | str = "int8",
    scales: np.ndarray | None = None,
    floor: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes (as `array`) that an integer kernel reads, and float32 scales that broadcast against them.

    `axes`: one scale per slice along these; none: one for the tensor. Codes of fewer bits are multiples of a
    power of two (16 for int4, 64 for ternary), and the scale is divided by it. `scales` are used as they are
    (in the unit of those returned); `floor` holds scales from below, for biases that must fit into int32.

    Raises ValueError for a scheme that integer kernels cannot compute.
    """
    choice = schemes.choose(scheme) if isinstance(scheme, str) else scheme
    if choice.name not in INTEGER_SCHEMES:
        raise ValueError(f"scheme {choice.name} is not for integer kernels")
    others = tuple(axis for axis in range(array.ndim) if axis not in axes)
    order = (*axes, *others)
    moved = np.transpose(array, order)
    rows = moved.reshape(int(np.prod([array.shape[axis] for axis in axes])), -1)
    lowest = None if floor is None else np.transpose(floor, order).reshape(-1, 1)
    codes, found = _integer_rows(rows, choice, None if scales is None else _column(scales, rows), lowest)
    back = np.argsort(order)
    shape = [array.shape[axis] if axis in axes else 1 for axis in range(array.ndim)]
    return np.ascontiguousarray(np.transpose(codes.reshape(moved.shape), back)), found.reshape(shape)


def _integer_rows(
    rows: np.ndarray, choice: Choice, scales: np.ndarray | None, floor: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    factor = levels.widening(largest_level(choice))
    if choice.name == "int8" and scales is None and floor is not None:
        scales = np.maximum(levels.max_scale(rows, INT8_MAX).astype(np.float64), floor)
    given = None if scales is None else levels.usable(scales * factor)
    grid: Grid = schemes.bind(choice)(rows, How(integer=True, scales=given))
    if grid.scale is None:
        raise ValueError(f"scheme {choice.name} has no scale")
    codes = grid.levels.astype(np.int8) * np.int8(factor)
    found = levels.usable(grid.scale / factor)
    if floor is not None and (too_fine := floor > found).any():
        # Channels emptied by pruning or training: at a scale that coarse their own levels say little.
        raised = levels.usable(np.where(too_fine, floor, found))
        again = levels.rounded(codes * found.astype(np.float64), raised, INT8_MAX)
        codes, found = np.where(too_fine, again, codes), raised
    return codes, found


def largest_level(choice: Choice) -> int:
    """The largest level that an integer form of the scheme has, before widening."""
    options: dict[str, Any] = choice.options()
    if choice.name == "fixed_point":
        return levels.top(options["bits"])
    if choice.name == "log2":
        return int(2 ** (2 ** (options["bits"] - 1) - 2))
    return {"int4": 7, "int2": 1, "ternary": 1, "binary": 1}.get(choice.name, INT8_MAX)


def _column(scales: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.ravel(scales), len(rows)).reshape(-1, 1)


def to_int32(bias: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Bias in units of input scale times weight scale; int32, same shape."""
    steps = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    return np.clip(steps, -(2**31 - 1), 2**31 - 1).astype(np.int32)
