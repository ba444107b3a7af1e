"""Scales and tables of levels for the weight schemes. Rows are [groups, elements], scales [groups, 1]."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INT8_MAX = 127
"""-128 is not used: the range stays symmetric, and safe for 7-bit variants."""
SMALLEST = float(np.finfo(np.float32).tiny)
LEAST_EXPONENT = -126.0
SEARCHED_BITS = 4
"""Up to here the largest value is no good scale: it leaves most values on level 0."""
SHARES = tuple(float(share) for share in np.linspace(1.0, 0.3, 29))
"""Shares of the largest value that the search for a scale tries."""
_AT_ONCE = 2**16
"""Elements that are divided at a time: float64 takes twice the memory of a weight."""
_BINS = 2**14
_CELLS = 512
"""Cells of the coarse histogram."""
_ROUNDS = 60
_ROUNDING = 1e-3
_ZEROS = 0.01
"""Share of exact zeros from which a table keeps a level for them."""


def top(bits: int) -> int:
    """The largest level of a symmetric signed number of so many bits."""
    return int(2 ** (bits - 1) - 1)


def widening(largest: int) -> int:
    """The power of two by which levels up to `largest` can be multiplied and still be int8.

    Scales become finer by it, and with them the int32 biases, whose unit is a multiple of the weight's scale.
    """
    return int(2 ** int(np.log2(INT8_MAX // largest)))


def usable(scale: Array) -> Array:
    """float32 scales that are positive normal numbers; 1 for groups of zeros."""
    return np.where(scale > 0, np.maximum(scale, SMALLEST), 1.0).astype(np.float32)


def max_scale(rows: Array, largest: int) -> Array:
    """max|w| / largest."""
    most = np.maximum(
        rows.max(axis=1, keepdims=True, initial=0.0), -rows.min(axis=1, keepdims=True, initial=0.0)
    )
    return usable(most.astype(np.float64) / largest)


def rounded(rows: Array, scale: Array, largest: int) -> Array:
    """q = clip(round(w / s), -largest, largest) as int8, halves to even."""
    if scale.size == 1:
        flat, scales = rows.reshape(-1), np.broadcast_to(scale.astype(np.float64).ravel(), rows.size)
    else:
        flat, scales = rows, np.broadcast_to(scale.astype(np.float64), rows.shape)
    found = np.empty(flat.shape, np.int8)
    several = max(1, _AT_ONCE * len(flat) // max(1, flat.size))
    for at in range(0, len(flat), several):
        some = slice(at, at + several)
        steps = np.rint(flat[some].astype(np.float64) / scales[some])
        found[some] = np.clip(steps, -largest, largest).astype(np.int8)
    return found.reshape(rows.shape)


def best_scale(rows: Array, candidates: Iterable[Array], largest: int) -> Array:
    """For each group the candidate of the least squared error."""
    rows = rows.astype(np.float32)
    best, least = None, None
    for candidate in candidates:
        scale = usable(candidate)
        codes = np.clip(np.rint(rows / scale), -largest, largest)
        codes *= scale
        codes -= rows
        error = np.einsum("ge,ge->g", codes, codes)[:, None]
        if best is None or least is None:
            best, least = scale, error
        else:
            best = np.where(error < least, scale, best)
            least = np.minimum(error, least)
    if best is None:
        raise ValueError("no scale to choose from")
    return best


def mse_scale(rows: Array, full: Array, largest: int) -> Array:
    """The share of the full-range scale of the least squared error, coarsely and then finely."""
    coarse = best_scale(rows, (full * share for share in SHARES[::4]), largest)
    step = SHARES[0] - SHARES[1]
    near = np.linspace(-3 * step, 3 * step, 7)
    return best_scale(rows, (np.minimum(coarse + full * offset, full) for offset in near), largest)


def power_of_two_above(scale: Array) -> Array:
    """The least power of two that is not smaller, at least the smallest normal number; 1 for 0."""
    exponent = np.ceil(np.log2(np.where(scale > 0, scale, 1.0)))
    return np.exp2(np.maximum(exponent, LEAST_EXPONENT))


def nearest(rows: Array, table: Array) -> Array:
    """Each number replaced by the nearest entry of a sorted table, in the table's type."""
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    return table[np.searchsorted(middles, rows)]


def squared_error(unit: Array, found: Array, scale: Array) -> float:
    """Sum over all groups of (s * (found - unit))^2."""
    return float(np.sum((np.square(found - unit).sum(axis=1, keepdims=True)) * np.square(scale)))


def piecewise_table(bits: int, pieces: int, ratio: float, integer: bool) -> Array:
    """Sorted levels of |w| <= 1 (integer: 127), symmetric about 0, with bounds 1, r, r^2... of the pieces."""
    count = top(bits)
    shares = [count // pieces + (index < count % pieces) for index in range(pieces)]
    bounds = [0.0, *(ratio**power for power in range(pieces - 1, -1, -1))]
    positive = [
        low + (high - low) * step / share
        for low, high, share in zip(bounds, bounds[1:], shares, strict=False)
        for step in range(1, share + 1)
    ]
    table = np.array([-x for x in reversed(positive)] + [0.0, *positive])
    return _on_grid(table * INT8_MAX) if integer else table.astype(np.float32)


def kmeans(rows: Array, scale: Array, count: int, *, integer: bool) -> Array:
    """A sorted table of at most `count` values: Lloyd's iterations on a fine histogram.

    Errors count with scale^2. Lloyd's iterations end in a local optimum, so they start from the best table
    for a coarse histogram, found by dynamic programming; large tables from one with values as dense as
    the cube root of the density of numbers (Panter and Dite 1951). Where there are as few distinct numbers as
    places, these are the table.
    """
    distinct = np.unique(_whole(rows) if integer else rows)
    if len(distinct) <= count:
        return _on_grid(distinct) if integer else distinct.astype(np.float32)
    zeros = np.mean(rows == 0) >= _ZEROS and count > 1
    weights = np.broadcast_to(np.square(scale.astype(np.float64)), rows.shape)
    kept = rows != 0 if zeros else np.ones(rows.shape, bool)
    found = _lloyd(rows[kept].astype(np.float64), weights[kept], count - zeros)
    if zeros:
        found = np.sort(np.append(found, 0.0))
    return _on_grid(found) if integer else np.unique(found.astype(np.float32))


def _whole(rows: Array) -> Array:
    """Whole numbers, where division by a scale has left only rounding errors."""
    whole = np.rint(rows)
    return whole if np.abs(rows - whole).max() < _ROUNDING else rows


def _lloyd(numbers: Array, weights: Array, count: int) -> Array:
    low, high = numbers.min(), numbers.max()
    index = np.minimum(((numbers - low) / (high - low) * _BINS).astype(np.int64), _BINS - 1)
    masses = np.append(0.0, np.cumsum(np.bincount(index, weights, _BINS)))
    moments = np.append(0.0, np.cumsum(np.bincount(index, weights * numbers, _BINS)))
    centres = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS
    smooth = np.convolve(np.diff(masses), np.ones(_BINS // 64), "same")
    spread = np.cumsum(np.cbrt(smooth))
    cells = _CELLS if count <= _CELLS // 8 else count
    edges = np.unique([0, *np.searchsorted(spread, np.arange(1, cells) / cells * spread[-1]), _BINS])
    if count <= _CELLS // 8:
        squares = np.append(0.0, np.cumsum(np.bincount(index, weights * numbers**2, _BINS)))
        edges = edges[_partition(masses[edges], moments[edges], squares[edges], count)]
    table = _means(masses, moments, edges, (centres[edges[:-1]] + centres[edges[1:] - 1]) / 2)
    for _ in range(_ROUNDS):
        inner = np.searchsorted(centres, (table[1:] + table[:-1]) / 2)
        moved = np.sort(_means(masses, moments, np.concatenate([[0], inner, [_BINS]]), table))
        if np.array_equal(moved, table):
            break
        table = moved
    return table


def _means(masses: Array, moments: Array, edges: Array, empty: Array) -> Array:
    """Mean of the numbers between successive edges; `empty` where there are none."""
    held = np.diff(masses[edges])
    return np.where(held > 0, np.diff(moments[edges]) / np.where(held > 0, held, 1.0), empty)


def _partition(masses: Array, moments: Array, squares: Array, count: int) -> Array:
    """Edges, as places among those of the cells, of the `count` groups of the least squared error."""
    mass, moment = (sums[None, :] - sums[:, None] for sums in (masses, moments))
    error = squares[None, :] - squares[:, None] - moment**2 / np.where(mass > 0, mass, 1.0)
    error = np.where(np.tri(len(masses), k=-1, dtype=bool), np.inf, np.maximum(error, 0.0))
    least, choices = error[0], []
    for _ in range(count - 1):
        total = least[:, None] + error
        choices.append(total.argmin(axis=0))
        least = total.min(axis=0)
    edges = [len(masses) - 1]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    return np.unique([0, *edges])


def _on_grid(table: Array) -> Array:
    return np.unique(np.clip(np.rint(table), -INT8_MAX, INT8_MAX)).astype(np.int8)
