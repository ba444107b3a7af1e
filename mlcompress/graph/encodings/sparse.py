"""Levels of which most are zero: where the others are, and what they are.

Positions and values are written independently: values in any form of `dense`, so that pruning, shared values
and integer kernels go together. Zeros are the positive ones.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.encodings import dense, rice
from mlcompress.graph.encodings.chain import Draft
from mlcompress.graph.encodings.codes import UnfitError, distinct, is_zero

Array = NDArray[Any]

_MASKED_FROM = 150
"""Bytes of fillers' values from which it is smaller to mark the fillers than to store a value for each."""
WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def bitmask(draft: Draft, array: Array, kind: ir.DataType, values: dense.Form) -> ir.Value:
    """One bit an element: m. Its value is `(0, kept...)[m * cumsum(m)]`."""
    mask = ~is_zero(array).ravel()
    bits = dense.packed(draft, mask.astype(np.int64), 1)
    return dense.shape(draft, _select(draft, bits, array.ravel()[mask], kind, values), array.shape)


def relative(draft: Draft, array: Array, kind: ir.DataType, values: dense.Form) -> ir.Value:
    """The distance from each kept element to the one before, in few bits (Deep Compression, Han et al. 2016).

    Codes 1 ... 2^b - 1 are distances. A longer one is made of fillers, which step 2^b - 1 and keep nothing:
    they have a value of zero, or code 0 and no value, whichever is smaller.
    """
    flat = array.ravel()
    draft.need(flat.size)
    kept = np.flatnonzero(~is_zero(flat))
    distances = np.diff(kept, prepend=-1)
    width = min(WIDTHS, key=lambda bits: _payload(distances, bits))
    largest = 2**width - 1
    fillers = (distances - 1) // largest
    codes, own = _with_fillers(distances, fillers, largest)
    is_masked = int(fillers.sum()) * _value_bits(flat[kept]) > 8 * _MASKED_FROM
    if is_masked:
        codes[~own] = 0
        stored = dense.indices(draft, codes, width)
        steps = np.concatenate([[largest], np.arange(1, largest + 1)]).astype(np.int32)
        found = _select(draft, _is_kept(draft, stored), flat[kept], kind, values)
        stored = draft.op("Gather", draft.constant(steps), stored)
    else:
        stored = dense.indices(draft, codes, width)
        numbers = np.zeros(len(codes), flat.dtype)
        numbers[own] = flat[kept]
        found = values(draft, numbers, kind)
    ends = draft.op("CumSum", stored, draft.constant(np.array(0, np.int32)))
    places = draft.op("Sub", ends, draft.constant(np.array(1, np.int32)))
    return dense.shape(draft, _scatter(draft, flat.size, places, found, kind), array.shape)


def rice_gaps(draft: Draft, array: Array, kind: ir.DataType, values: dense.Form) -> ir.Value:
    """The distances in Rice codes: a zero steps by 2^k, a one by its k bits and 1, to a kept element."""
    flat = array.ravel()
    draft.need(flat.size)
    kept = np.flatnonzero(~is_zero(flat))
    numbers = np.diff(kept, prepend=-1) - 1
    width = rice.width(numbers)
    flags = rice.flags(draft, numbers, width)
    one = draft.constant(np.array(1, np.int32))
    count = draft.op("CumSum", flags, draft.constant(np.array(0, np.int32)))
    places = draft.op("Mul", count, flags)
    rests = np.concatenate([[2**width - 1], numbers & (2**width - 1)])
    steps = draft.op("Add", draft.op("Gather", dense.indices(draft, rests, width), places), one)
    with_zero = np.concatenate([np.zeros(1, flat.dtype), flat[kept]])
    found = draft.op("Gather", values(draft, with_zero, kind), places)
    ends = draft.op("CumSum", steps, draft.constant(np.array(0, np.int32)))
    where = draft.op("Sub", ends, one)
    return dense.shape(draft, _scatter(draft, flat.size, where, found, kind), array.shape)


def _with_fillers(distances: Array, fillers: Array, largest: int) -> tuple[Array, Array]:
    """Codes with the fillers before each element, and which of them are elements."""
    codes = np.full(len(distances) + int(fillers.sum()), largest, np.int64)
    places = np.cumsum(fillers + 1) - 1
    codes[places] = distances - fillers * largest
    own = np.zeros(len(codes), bool)
    own[places] = True
    return codes, own


def _select(draft: Draft, kept: ir.Value, numbers: Array, kind: ir.DataType, values: dense.Form) -> ir.Value:
    """The n-th number where `kept` (int32, 0 or 1) is 1 for the n-th time, zero where it is 0."""
    count = draft.op("CumSum", kept, draft.constant(np.array(0, np.int32)))
    places = draft.op("Mul", count, kept)
    with_zero = np.concatenate([np.zeros(1, numbers.dtype), numbers])
    return draft.op("Gather", values(draft, with_zero, kind), places)


def _is_kept(draft: Draft, codes: ir.Value) -> ir.Value:
    return draft.op("Min", codes, draft.constant(np.array(1, np.int32)))


def _scatter(draft: Draft, size: int, places: ir.Value, found: ir.Value, kind: ir.DataType) -> ir.Value:
    zero = ir.tensor(np.zeros(1, kind.numpy()))
    ground = draft.op("ConstantOfShape", draft.constant(np.array([size], np.int64)), value=zero)
    return draft.op("ScatterElements", ground, places, found, axis=0)


def _payload(distances: Array, width: int) -> int:
    """Bits of all codes of so many bits."""
    return int((len(distances) + ((distances - 1) // (2**width - 1)).sum()) * width)


def _value_bits(numbers: Array) -> int:
    """Bits of a value, zero among them, in a table or by itself."""
    whole, levels = 8 * numbers.itemsize, len(distinct(numbers)[0])
    return min(whole, levels.bit_length()) if levels < 256 else whole


def share_of_zeros(array: Array) -> float:
    return float(np.mean(is_zero(array)))


def check(array: Array) -> None:
    """Raise UnfitError for an array without a number, or with no zero."""
    if not is_zero(array).any():
        raise UnfitError("it has no zeros")
    if is_zero(array).all():
        raise UnfitError("all of it is zero")
