"""Levels one after the other: as small integers, as places in a table, as packed bits.

A form is `(draft, array, kind) -> value`: it decodes `array` (levels, see `Codes`) as `kind`, INT8 or FLOAT,
in the array's shape. It raises UnfitError for levels that it cannot hold.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.encodings.chain import FOUR_BITS_OPSET, TWO_BITS_OPSET, Draft
from mlcompress.graph.encodings.codes import ELEMENT_TYPES, UnfitError, distinct, is_integer, levels

Array = NDArray[Any]
Form = Callable[[Draft, Array, ir.DataType], ir.Value]

_INT32, _INT8, _FLOAT = int(ir.DataType.INT32), int(ir.DataType.INT8), int(ir.DataType.FLOAT)
_SMALL_TABLE = 12
"""Entries from which a Cast after the Gather is smaller than float32 entries."""
_AXES_INPUT_OPSET = 13
_PACKING_BYTES = 300
"""Nodes and constants that unpack bits; numbers that waste less than this have a type of their own."""
_TRITS = 5
"""Numbers 0, 1, 2 in a byte."""


def itself(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """The levels in their own type."""
    if kind == ir.DataType.FLOAT and array.dtype != np.float32:
        return cast(draft, draft.constant(array), kind)
    return draft.constant(array)


def half(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """float32 levels that are fp16 numbers."""
    if array.dtype != np.float32:
        raise UnfitError("its levels are no float32 numbers")
    with np.errstate(over="ignore"):
        stored = array.astype(np.float16)
    if not np.array_equal(stored.astype(np.float32), array):
        raise UnfitError("its values are no fp16 numbers")
    return cast(draft, draft.constant(stored), kind)


def four_bits(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """Integers of 4 bits times a step (INT4 for signed levels, UINT4 for unsigned)."""
    return _integers(draft, array, kind, 4)


def two_bits(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """Integers of 2 bits times a step."""
    return _integers(draft, array, kind, 2)


def table(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """The distinct levels in a table, and places in it in the fewest bits."""
    values, index = distinct(array)
    places = indices(draft, index, _bits(len(values)))
    return look_up(draft, values, places, kind)


def bits(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """The distinct levels in a table, and places in it packed into bytes; three levels go five to a byte."""
    values, index = distinct(array)
    if len(values) == 3:
        places = _trits(draft, index)
    else:
        places = packed(draft, index, _bits(len(values)))
    return look_up(draft, values, places, kind)


def frequent(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """Frequent levels by their place in a table, in few bits; the highest place says: the next of the others.

    Table and others lie in one array: code c < top is its place, the n-th code `top` has place top + n.
    """
    if not is_integer(array):
        raise UnfitError("its levels are no integers")
    values, index = distinct(array)
    counts = np.bincount(index.ravel(), minlength=len(values))
    order = np.argsort(-counts, kind="stable")
    width = _frequent_width(counts[order])
    top = 2**width - 1
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    codes = np.minimum(rank[index], top)
    others = array[codes == top]
    stored = np.concatenate([values[order[:top]], np.zeros(1, array.dtype), others])
    places = indices(draft, codes.ravel(), width)
    is_other = draft.op("Div", places, draft.constant(np.array(top, np.int32)))
    count = draft.op("CumSum", is_other, draft.constant(np.array(0, np.int32)))
    moved = draft.op("Add", places, draft.op("Mul", count, is_other))
    found = look_up(draft, stored, moved, kind)
    return found if array.ndim == 1 else shape(draft, found, array.shape)


def _frequent_width(counts: Array) -> int:
    """Bits of the codes at which codes and others take the fewest bits; counts are sorted, highest first."""
    widths = [width for width in range(2, 8) if 2**width <= len(counts)]
    if not widths:
        raise UnfitError("it has too few distinct levels")
    total = int(counts.sum())
    return min(widths, key=lambda width: width * total + 8 * int(counts[2**width - 1 :].sum()))


def cast(draft: Draft, value: ir.Value, kind: ir.DataType) -> ir.Value:
    return draft.op("Cast", value, to=int(kind))


def indices(draft: Draft, index: Array, width: int) -> ir.Value:
    """Whole numbers below 2^width as int32, in the type of the model's operator set or packed."""
    draft.need(index.size)
    types = {8: np.uint8}
    if draft.opset >= FOUR_BITS_OPSET:
        types[4] = ml_dtypes.uint4
    if draft.opset >= TWO_BITS_OPSET:
        types[2] = ml_dtypes.uint2
    typed = min(bits for bits in types if bits >= width)
    if typed == width or index.size * (typed - width) < 8 * _PACKING_BYTES:
        return draft.op("Cast", draft.constant(index.astype(types[typed])), to=_INT32)
    return packed(draft, index, width)


def packed(draft: Draft, index: Array, width: int) -> ir.Value:
    """The same, in bytes that any operator set can take apart."""
    if width == 8:
        return indices(draft, index, width)
    if width in (1, 2, 4):
        return _shaped(draft, _fields(draft, index, width), index, 8 // width)
    return _shaped(draft, _planes(draft, index, width), index, 8)


def _fields(draft: Draft, index: Array, width: int) -> ir.Value:
    """8 / width numbers in a byte. Byte m of M holds numbers m, M + m, 2M + m..., the first in the lowest
    bits: onnxruntime then shifts long rows by one number each, which is fast."""
    count = 8 // width
    shifts = (width * np.arange(count)).astype(np.uint8).reshape(-1, 1)
    numbers = _padded(index, count).astype(np.uint8) << shifts
    stored = draft.constant(np.bitwise_or.reduce(numbers, axis=0))
    moved = draft.op("BitShift", stored, draft.constant(shifts), direction="RIGHT")
    # Mod, because BitwiseAnd came with operator set 18.
    field = draft.op("Mod", moved, draft.constant(np.array(2**width, np.uint8)))
    return draft.op("Cast", field, to=_INT32)


def _planes(draft: Draft, index: Array, width: int) -> ir.Value:
    """`width` rows of single bits, packed like fields; row n holds bit n of every number."""
    draft.need(width * index.size)
    numbers = _padded(index, 8).astype(np.uint8)
    shifts = np.arange(8, dtype=np.uint8).reshape(-1, 1)
    rows = [np.bitwise_or.reduce(((numbers >> bit) & 1) << shifts, axis=0) for bit in range(width)]
    stored = draft.constant(np.stack(rows).reshape(width, 1, -1))
    moved = draft.op("BitShift", stored, draft.constant(shifts), direction="RIGHT")
    bit = draft.op("Mod", moved, draft.constant(np.array(2, np.uint8)))
    worth = np.arange(width, dtype=np.uint8).reshape(-1, 1, 1)
    weighed = draft.op("BitShift", bit, draft.constant(worth), direction="LEFT")
    whole = draft.op("Cast", weighed, to=_INT32)
    if draft.opset < _AXES_INPUT_OPSET:
        return draft.op("ReduceSum", whole, axes=[0], keepdims=0)
    return draft.op("ReduceSum", whole, draft.constant(np.array([0], np.int64)), keepdims=0)


def _trits(draft: Draft, index: Array) -> ir.Value:
    """Numbers 0, 1, 2: sum of n_i 3^i in a byte."""
    draft.need(index.size)
    powers = (3 ** np.arange(_TRITS)).reshape(-1, 1)
    numbers = (_padded(index, _TRITS) * powers).sum(axis=0)
    stored = draft.op("Cast", draft.constant(numbers.astype(np.uint8)), to=_INT32)
    moved = draft.op("Div", stored, draft.constant(powers.astype(np.int32)))
    digit = draft.op("Mod", moved, draft.constant(np.array(3, np.int32)))
    return _shaped(draft, digit, index, _TRITS)


def shape(draft: Draft, value: ir.Value, lengths: tuple[int, ...]) -> ir.Value:
    return draft.op("Reshape", value, draft.constant(np.array(lengths, np.int64)))


def _shaped(draft: Draft, value: ir.Value, index: Array, group: int) -> ir.Value:
    """Numbers of whole groups, as the shape of `index`: without those that fill the last group."""
    if index.size % group:
        flat = shape(draft, value, (-1,))
        limits = [draft.constant(np.array([limit], np.int64)) for limit in (0, index.size)]
        value = draft.op("Slice", flat, *limits)
        if index.ndim == 1:
            return value
    return shape(draft, value, index.shape)


def _padded(index: Array, group: int) -> Array:
    flat = index.ravel()
    return np.pad(flat, (0, -len(flat) % group)).reshape(group, -1)


def _integers(draft: Draft, array: Array, kind: ir.DataType, width: int) -> ir.Value:
    if not is_integer(array):
        raise UnfitError(f"its levels are no integers of {width} bits")
    used = levels(array).astype(np.int64)
    step = int(np.gcd.reduce(np.abs(used))) or 1
    if kind == ir.DataType.FLOAT:
        step = 1  # the scale says it
    is_signed = bool(used.min(initial=0) < 0)
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if is_signed else (0, 2**width - 1)
    if used.min(initial=0) < low * step or used.max(initial=0) > high * step:
        raise UnfitError(f"its levels need more than {width} bits")
    opset = FOUR_BITS_OPSET if width == 4 else TWO_BITS_OPSET
    if draft.opset < opset:
        raise UnfitError(f"{width}-bit types need operator set {opset}, the model has {draft.opset}")
    name = f"{'int' if is_signed else 'uint'}{width}"
    numbers = (array if step == 1 else array.astype(np.int16) // step).astype(getattr(ml_dtypes, name))
    value = cast(draft, draft.constant(numbers), kind)
    if step == 1:
        return value
    return draft.op("Mul", value, draft.constant(np.array(step, np.int8)))


def look_up(draft: Draft, values: Array, places: ir.Value, kind: ir.DataType) -> ir.Value:
    """`values` at `places`; float tables hold float32 where that is smaller than a Cast."""
    if kind == ir.DataType.FLOAT and (len(values) <= _SMALL_TABLE or values.dtype == np.float32):
        return draft.op("Gather", draft.constant(values.astype(np.float32)), places)
    found = draft.op("Gather", draft.constant(values), places)
    return found if ELEMENT_TYPES[values.dtype] == kind else cast(draft, found, kind)


def _bits(count: int) -> int:
    """Bits of a place in a table of so many entries."""
    if count > 256:
        raise UnfitError(f"it has {count} distinct levels; a table holds 256")
    return max(1, int(count - 1).bit_length())


FORMS: dict[str, Form] = {
    "itself": itself,
    "half": half,
    "int4": four_bits,
    "int2": two_bits,
    "codebook": table,
    "packed": bits,
    "frequent": frequent,
}
"""Ways to write levels, simple ones first: of two that are equally small, the first is taken."""


def smallest(
    draft: Callable[[], Draft], array: Array, kind: ir.DataType, forms: Mapping[str, Form] = FORMS
) -> str:
    """The name of the form that takes the fewest bytes."""
    sizes = {}
    for name, form in forms.items():
        trial = draft()
        with suppress(UnfitError):
            form(trial, array, kind)
            sizes[name] = trial.bytes()
        trial.discard()
    return min(sizes, key=lambda name: sizes[name])
