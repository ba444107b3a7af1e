"""Weight schemes: which numbers a weight may become. How those are then stored is another choice.

A scheme is a function `(rows, how, *, options) -> Grid`. `rows` is float [groups, elements], one group for
each scale; the result is `level * scale` (`(level - zero) * scale` where it is asymmetric). Levels are small
integers wherever the scheme allows it, so that integer kernels can compute with them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlcompress.quantize import levels
from mlcompress.registry import Registry

schemes = Registry("scheme")
UNSCALED = ("fp16", "bf16")
"""Schemes without scales: each number is rounded by itself."""

Array = NDArray[Any]
Fit = Annotated[
    Literal["max", "mse"],
    Field(description="the largest value keeps its size, or the squared error is least"),
]


@dataclass(frozen=True)
class How:
    """What the stage asks of a scheme, beside its options."""

    symmetric: bool = True
    integer: bool = False
    """Levels must be integers of -127 ... 127: an integer kernel reads them."""
    scales: Array | None = None
    """Scales of the groups, [groups, 1], to be used as they are; None: the scheme's own."""


@dataclass(frozen=True)
class Grid:
    """Levels [groups, elements] and what they are multiplied by, float32 [groups, 1]."""

    levels: Array
    scale: Array | None = None
    zero: Array | None = None
    """uint8 [groups, 1], subtracted from the levels; None where zero is level 0."""


@schemes
def int8(rows: Array, how: How, *, scale: Fit = "max") -> Grid:
    """8-bit integers: q = clip(round(w / s), -127, 127), s = max|w| / 127 (Jacob et al. 2018)."""
    return _uniform(rows, how, 8, scale)


@schemes
def int4(rows: Array, how: How, *, scale: Fit = "mse") -> Grid:
    """4-bit integers: q = clip(round(w / s), -7, 7) s of the least squared error (Banner et al. 2019)."""
    return _uniform(rows, how, 4, scale)


@schemes
def int2(rows: Array, how: How, *, scale: Fit = "mse") -> Grid:
    """2-bit integers -1, 0, 1 (asymmetric: 0 to 3 minus a zero point), s of the least squared error."""
    return _uniform(rows, how, 2, scale)


@schemes
def ternary(rows: Array, how: How) -> Grid:
    """a * {-1, 0, 1}: 0 where |w| <= 0.7 mean|w|, a = mean|w| of the others (Li, Liu 2016)."""
    size = np.abs(rows)
    kept = size > 0.7 * size.mean(axis=1, keepdims=True)
    alpha = (size * kept).sum(axis=1, keepdims=True) / np.maximum(kept.sum(axis=1, keepdims=True), 1)
    if how.scales is not None:
        alpha = how.scales
        kept = size > 0.5 * alpha
    return Grid((np.sign(rows) * kept).astype(np.int8), levels.usable(alpha))


@schemes
def binary(rows: Array, how: How) -> Grid:
    """a * sign(w), a = mean|w| (XNOR-Net's weights, Rastegari et al. 2016); zeros count as positive."""
    alpha = np.abs(rows).mean(axis=1, keepdims=True) if how.scales is None else how.scales
    # A row of zeros has the smallest scale there is: it has no level for 0.
    return Grid(np.where(rows < 0, -1, 1).astype(np.int8), levels.usable(np.maximum(alpha, levels.SMALLEST)))


@schemes
def fixed_point(
    rows: Array,
    how: How,
    *,
    bits: Annotated[int, Field(ge=2, le=8, description="sign included")] = 8,
) -> Grid:
    """Qm.n numbers: as integers, with the scale a power of two, 2^-n (Lin et al. 2016).

    n is the largest at which max|w| still fits; up to 4 bits also n + 1 and n + 2 are tried, and the one of
    the least squared error is taken.
    """
    top = levels.top(bits)
    scale = how.scales
    if scale is None:
        scale = levels.power_of_two_above(np.abs(rows).max(axis=1, keepdims=True, initial=0.0) / top)
        if bits <= levels.SEARCHED_BITS:
            scale = levels.best_scale(rows, [scale, scale / 2, scale / 4], top)
    return Grid(levels.rounded(rows, scale, top), levels.usable(scale))


@schemes
def log2(
    rows: Array,
    how: How,
    *,
    bits: Annotated[int, Field(ge=2, le=8, description="sign included; integer kernels: at most 4")] = 4,
) -> Grid:
    """Powers of two: sign(w) * 2^clip(round(log2|w|), lo, hi), and 0 (Miyashita et al. 2016).

    hi = round(log2 max|w|), lo = hi - 2^(bits-1) + 2. What is nearer to 0 than to 2^lo becomes 0.
    """
    span = 2 ** (bits - 1) - 2
    size = np.abs(np.asarray(rows, np.float64))
    if how.scales is None:
        largest = size.max(axis=1, keepdims=True, initial=0.0)
        high = np.rint(np.log2(np.where(largest > 0, largest, 1.0)))
        low = np.maximum(high - span, levels.LEAST_EXPONENT)
    else:
        low = np.rint(np.log2(how.scales))
        high = low + span
    exponent = np.clip(np.rint(np.log2(np.maximum(size, np.finfo(np.float64).tiny))), low, high) - low
    power = np.where(size < np.exp2(low - 1), 0.0, np.exp2(exponent))
    signed = np.sign(rows) * power
    is_small = span < 7
    return Grid(signed.astype(np.int8 if is_small else np.float32), levels.usable(np.exp2(low)))


@schemes
def piecewise(
    rows: Array,
    how: How,
    *,
    bits: Annotated[int, Field(ge=3, le=8, description="sign included")] = 4,
    pieces: Annotated[int, Field(ge=2, le=3, description="linear pieces on either side of 0")] = 2,
) -> Grid:
    """Linear pieces with steps of their own: fine near 0, coarse in the tails (PWLQ, Fang et al. 2020).

    |w| / max|w| falls into pieces with bounds 1, r, r^2...; the 2^(bits-1) - 1 positive levels are shared out
    among them. r is the one of the least squared error over the tensor.
    """
    scale = _full_range(rows, how)
    unit = rows / scale
    best = min(
        (levels.piecewise_table(bits, pieces, ratio, how.integer) for ratio in np.linspace(0.2, 0.8, 25)),
        key=lambda table: levels.squared_error(unit, levels.nearest(unit, table), scale),
    )
    return Grid(levels.nearest(unit, best), levels.usable(scale))


@schemes
def codebook(
    rows: Array,
    how: How,
    *,
    bits: Annotated[int, Field(ge=1, le=8, description="2^bits values for the whole tensor")] = 4,
) -> Grid:
    """The 2^bits values of the least squared error, by k-means in one dimension (Han et al. 2016).

    One table for the tensor; with a scale for each channel it holds shares of max|w| of the channel, and the
    error is weighted by the square of the scale. Exact zeros (of a pruned weight) stay zeros.
    """
    if how.integer:
        scale = _full_range(rows, how)
    elif len(rows) == 1:
        table = levels.kmeans(rows, np.ones((1, 1)), 2**bits, integer=False)
        return Grid(levels.nearest(rows, table))
    else:
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0), levels.SMALLEST)
    unit = rows / scale
    table = levels.kmeans(unit, scale, 2**bits, integer=how.integer)
    return Grid(levels.nearest(unit, table), levels.usable(scale))


@schemes
def fp16(rows: Array, how: How) -> Grid:
    """IEEE half precision: 10 bits of mantissa, up to 65504."""
    return Grid(np.asarray(rows, np.float32).astype(np.float16))


@schemes
def bf16(rows: Array, how: How) -> Grid:
    """bfloat16: the range of float32 with 7 bits of mantissa (Kalamkar et al. 2019)."""
    return Grid(np.asarray(rows, np.float32).astype(ml_dtypes.bfloat16))


def _uniform(rows: Array, how: How, bits: int, fit: str) -> Grid:
    if not how.symmetric:
        return _asymmetric(rows, bits, fit)
    top = levels.top(bits)
    if how.scales is not None:
        scale = how.scales
    else:
        scale = levels.max_scale(rows, top)
        if fit == "mse":
            scale = levels.mse_scale(rows, scale, top)
    scale = levels.usable(scale)
    return Grid(levels.rounded(rows, scale, top), scale)


def _asymmetric(rows: Array, bits: int, fit: str) -> Grid:
    """(q - z) * s with q of 0 ... 2^bits - 1, over a range that holds 0 (which stays exact)."""
    low = np.minimum(rows.min(axis=1, keepdims=True, initial=0.0), 0.0)
    high = np.maximum(rows.max(axis=1, keepdims=True, initial=0.0), 0.0)
    best, least = _between(rows, low, high, bits)
    for share in levels.SHARES[1:] if fit == "mse" else ():
        found, error = _between(rows, low * share, high * share, bits)
        best = tuple(np.where(error < least, new, old) for new, old in zip(found, best, strict=True))
        least = np.minimum(error, least)
    return Grid(*best)


def _between(rows: Array, low: Array, high: Array, bits: int) -> tuple[tuple[Array, ...], Array]:
    """Levels, scale and zero point of a range, and the squared error of each group."""
    last = 2**bits - 1
    scale = levels.usable((high - low) / last)
    zero = np.clip(np.rint(-low / scale), 0, last)
    codes = np.clip(np.rint(rows / scale.astype(np.float64)) + zero, 0, last)
    error = np.square((codes - zero) * scale - rows).sum(axis=1, keepdims=True)
    return (codes.astype(np.uint8), scale, zero.astype(np.uint8)), error


def _full_range(rows: Array, how: How) -> Array:
    """Scales at which the largest level, 127 or 1.0, is max|w|."""
    if how.scales is not None:
        return how.scales
    return levels.max_scale(rows, levels.INT8_MAX if how.integer else 1)
