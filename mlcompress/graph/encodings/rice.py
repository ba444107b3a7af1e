"""Rice codes: small numbers take few bits, large ones more (Rice, Plaunt 1971).

n = q 2^k + r: r in k bits, q zeros and a one. The zeros and ones of all numbers are one stream of bits,
`flags`; what they say is read by CumSum, without a loop.
"""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import dense
from mlcompress.graph.encodings.chain import Draft
from mlcompress.graph.encodings.codes import Array, UnfitError, distinct, is_integer

_WIDTHS = range(1, 7)
_REDUCTION_OPSET = 16
"""ScatterElements adds from here on."""


def width(numbers: Array) -> int:
    """The k of the fewest bits."""
    return min(_WIDTHS, key=lambda bits: bits * len(numbers) + int((numbers >> bits).sum()))


def flags(draft: Draft, numbers: Array, bits: int) -> ir.Value:
    """int32 0 and 1: for each number as many zeros as its quotient has, and a one."""
    quotients = numbers >> bits
    stream = np.zeros(len(numbers) + int(quotients.sum()), np.int64)
    stream[np.cumsum(quotients + 1) - 1] = 1
    return dense.packed(draft, stream, 1)


def frequent_first(draft: Draft, array: Array, kind: ir.DataType) -> ir.Value:
    """Places in a table of levels, the most frequent first, in Rice codes."""
    if not is_integer(array):
        raise UnfitError("its levels are no integers")
    if draft.opset < _REDUCTION_OPSET:
        raise UnfitError(f"Rice codes need operator set {_REDUCTION_OPSET}, the model has {draft.opset}")
    values, index = distinct(array)
    order = np.argsort(-np.bincount(index.ravel(), minlength=len(values)), kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    numbers = rank[index].ravel()
    bits = width(numbers)
    places = draft.op(
        "Add",
        draft.op("Mul", _quotients(draft, numbers, bits), draft.constant(np.array(2**bits, np.int32))),
        dense.indices(draft, numbers & (2**bits - 1), bits),
    )
    found = dense.look_up(draft, values[order], places, kind)
    return found if array.ndim == 1 else dense.shape(draft, found, array.shape)


def _quotients(draft: Draft, numbers: Array, bits: int) -> ir.Value:
    """Zeros up to the n-th one, minus those up to the one before."""
    first, one = draft.constant(np.array(0, np.int32)), draft.constant(np.array(1, np.int32))
    stream = flags(draft, numbers, bits)
    ones = draft.op("CumSum", stream, first)
    zeros = draft.op("CumSum", draft.op("Sub", one, stream), first)
    # The n-th one puts its count into place n; zeros add nothing to place 0.
    size = draft.constant(np.array([len(numbers) + 1], np.int64))
    ground = draft.op("ConstantOfShape", size, value=ir.tensor(np.zeros(1, np.int32)))
    places, counts = (draft.op("Mul", value, stream) for value in (ones, zeros))
    sums = draft.op("ScatterElements", ground, places, counts, axis=0, reduction="add")
    start, second, end = (draft.constant(np.array([at], np.int64)) for at in (0, 1, len(numbers)))
    after = draft.op("Slice", sums, second, draft.constant(np.array([len(numbers) + 1], np.int64)))
    return draft.op("Sub", after, draft.op("Slice", sums, start, end))
