"""The encodings that a recipe can name."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import dense, sparse
from mlcompress.graph.encodings.chain import Draft
from mlcompress.graph.encodings.codes import Array, Codes, UnfitError, encodings, is_integer, is_zero
from mlcompress.graph.encodings.rice import frequent_first


@encodings
def plain(draft: Draft, codes: Codes) -> ir.Value:
    """The numbers themselves: float32, or int8 where integers are computed."""
    return draft.constant(codes.values())


@encodings
def fp16(draft: Draft, codes: Codes) -> ir.Value:
    """IEEE half precision and a Cast: half the bytes."""
    if codes.stored.dtype == np.float16:
        return scaled(draft, dense.itself(draft, codes.stored, codes.kind), codes)
    return scaled(draft, dense.half(draft, codes.stored, codes.kind), codes)


@encodings
def bf16(draft: Draft, codes: Codes) -> ir.Value:
    """bfloat16 and a Cast: half the bytes, the range of float32."""
    if codes.stored.dtype.name != "bfloat16":
        raise UnfitError("its values are no bf16 numbers")
    return scaled(draft, dense.itself(draft, codes.stored, codes.kind), codes)


@encodings
def int8(draft: Draft, codes: Codes) -> ir.Value:
    """Bytes, Cast, and Mul by the scale: a quarter of the bytes."""
    if not is_integer(codes.stored):
        raise UnfitError("int8 storage needs integers and a scale")
    return scaled(draft, dense.itself(draft, codes.stored, codes.kind), codes)


@encodings
def int4(draft: Draft, codes: Codes) -> ir.Value:
    """INT4 (operator set 21), Cast, and Mul by the scale; for integer kernels by a step, as 16."""
    return scaled(draft, dense.four_bits(draft, codes.stored, codes.kind), codes)


@encodings
def uint4(draft: Draft, codes: Codes) -> ir.Value:
    """UINT4 (operator set 21), Cast, Sub of the zero point, Mul by the scale."""
    return scaled(draft, dense.four_bits(draft, _unsigned(codes), codes.kind), codes)


@encodings
def int2(draft: Draft, codes: Codes) -> ir.Value:
    """INT2 (operator set 25), Cast, and Mul by the scale; for integer kernels by a step, as 64."""
    return scaled(draft, dense.two_bits(draft, codes.stored, codes.kind), codes)


@encodings
def uint2(draft: Draft, codes: Codes) -> ir.Value:
    """UINT2 (operator set 25), Cast, Sub of the zero point, Mul by the scale."""
    return scaled(draft, dense.two_bits(draft, _unsigned(codes), codes.kind), codes)


@encodings
def packed(draft: Draft, codes: Codes) -> ir.Value:
    """Places in a table of levels, packed into bytes (BitShift, Mod): 1 to 8 bits, three levels in 1.6."""
    return scaled(draft, dense.bits(draft, codes.stored, codes.kind), codes)


@encodings
def codebook(draft: Draft, codes: Codes) -> ir.Value:
    """Places in a table of up to 256 levels, Cast, Gather: UINT2, UINT4, uint8, or packed where none fits."""
    return scaled(draft, dense.table(draft, codes.stored, codes.kind), codes)


@encodings
def frequent(draft: Draft, codes: Codes) -> ir.Value:
    """The most frequent levels in few bits, the others in bytes of their own: a code of two lengths."""
    return scaled(draft, dense.frequent(draft, codes.stored, codes.kind), codes)


@encodings
def fixed_point(draft: Draft, codes: Codes) -> ir.Value:
    """Qm.n: bytes, and scales that are powers of two, the few distinct ones in a table."""
    if codes.scale is None or not is_integer(codes.stored) or np.any(np.frexp(codes.scale)[0] != 0.5):
        raise UnfitError("fixed_point storage needs integers and scales that are powers of two")
    return scaled(draft, dense.itself(draft, codes.stored, codes.kind), codes)


@encodings
def log(draft: Draft, codes: Codes) -> ir.Value:
    """Signed powers of two (and 0) by their place in a table."""
    size = np.abs(codes.stored.astype(np.float32))
    if np.any((np.frexp(size)[0] != 0.5) & (size != 0)):
        raise UnfitError("log storage needs levels that are powers of two")
    return scaled(draft, dense.table(draft, codes.stored, codes.kind), codes)


@encodings
def bitmask(draft: Draft, codes: Codes) -> ir.Value:
    """One bit an element says which are not zero; these follow, by CumSum and Gather, in any form."""
    return with_values(draft, codes, sparse.bitmask)


@encodings
def relative(draft: Draft, codes: Codes) -> ir.Value:
    """Distances between elements that are not zero, CumSum, Scatter (Han et al. 2016); values in any form."""
    return with_values(draft, codes, sparse.relative)


@encodings
def rice(draft: Draft, codes: Codes) -> ir.Value:
    """As relative, with distances in Rice codes: fewer bits than numbers of one width, slower to load."""
    return with_values(draft, codes, sparse.rice_gaps)


Positions = Callable[[Draft, Array, ir.DataType, dense.Form], ir.Value]


VALUES = dense.FORMS | {"rice": frequent_first}
"""Forms of the values of a sparse weight. Dense ones load faster without Rice codes and hardly grow."""


def with_values(
    draft: Draft, codes: Codes, positions: Positions, values: dense.Form | None = None
) -> ir.Value:
    """A sparse form with its values in the form given, else in the smallest."""
    sparse.check(codes.stored)
    if values is None:
        kept = codes.stored.ravel()[~is_zero(codes.stored.ravel())]
        sample = np.concatenate([np.zeros(1, kept.dtype), kept])
        values = VALUES[dense.smallest(draft.fresh, sample, codes.kind, VALUES)]
    return scaled(draft, positions(draft, codes.stored, codes.kind, values), codes)


def scaled(draft: Draft, value: ir.Value, codes: Codes) -> ir.Value:
    """Decoded levels to the weight: zero point, scale, shape."""
    if codes.integer:
        return value
    if codes.zero is not None:
        zero = dense.cast(draft, draft.constant(codes.zero), ir.DataType.FLOAT)
        value = draft.op("Sub", value, zero)
    if codes.scale is not None:
        form = dense.FORMS[dense.smallest(draft.fresh, codes.scale, ir.DataType.FLOAT)]
        value = draft.op("Mul", value, form(draft, codes.scale, ir.DataType.FLOAT))
    if codes.shape is not None:
        value = dense.shape(draft, value, codes.shape)
    return value


def _unsigned(codes: Codes) -> Array:
    if codes.stored.dtype != np.uint8 and codes.stored.min(initial=0) < 0:
        raise UnfitError("its levels are signed")
    return codes.stored
