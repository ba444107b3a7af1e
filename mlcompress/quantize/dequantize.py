"""Weights in front of DequantizeLinear, for providers that fuse it into the product that reads it."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import Chains, Codes, replace
from mlcompress.quantize.integer import in_domain

READERS = ("MatMul", "Gemm")
PER_AXIS_OPSET, BLOCK_OPSET = 13, 21
"""Operator sets in which DequantizeLinear has a scale for each slice; for each block, and 4-bit types."""
_FOUR_BITS = {
    np.dtype(np.int8): (np.dtype(ml_dtypes.int4), -8, 7),
    np.dtype(np.uint8): (np.dtype(ml_dtypes.uint4), 0, 15),
}

_Laid = tuple[list[np.ndarray], dict[str, Any]]


def dequantize(chains: Chains, weight: ir.Value, codes: Codes) -> str | None:
    """Replace an initializer by the DequantizeLinear of its codes, in place. Gives the form's name; None, and
    nothing is changed, where that is not for it.

    y = (q - z) * s: INT4 or UINT4 where the levels fit and the operator set has it, else INT8 or UINT8; s for
    the tensor, for each slice along an axis, or for each block along one. For weights that nothing but MatMul
    and Gemm read, and whose levels are integers.
    """
    laid = _laid_out(codes)
    if laid is None or not all(in_domain(use.node, READERS) for use in weight.uses()):
        return None
    (stored, scale, *zeros), attributes = laid
    draft = chains.draft()
    if draft.opset < (BLOCK_OPSET if "block_size" in attributes else PER_AXIS_OPSET):
        return None
    kind, low, high = _FOUR_BITS[stored.dtype]
    name = stored.dtype.name
    if draft.opset >= BLOCK_OPSET and low <= stored.min(initial=0) and stored.max(initial=0) <= high:
        stored, zeros, name = stored.astype(kind), [zero.astype(kind) for zero in zeros], kind.name
    inputs = [draft.constant(array) for array in (stored, scale, *zeros)]
    replace(chains, draft, {weight: (draft.op("DequantizeLinear", *inputs, **attributes), codes)})
    return f"dequantized {name}"


def _laid_out(codes: Codes) -> _Laid | None:
    """Levels, scales and zero points in the shapes of DequantizeLinear, and its attributes; None where it has
    none.
    """
    stored, scale = codes.stored, codes.scale
    if scale is None or stored.dtype not in _FOUR_BITS or codes.integer:
        return None
    factors = [scale, *([codes.zero] if codes.zero is not None else [])]
    if codes.shape is not None:
        return _blocks(stored, factors, codes.shape)
    wide = [axis for axis, length in enumerate(scale.shape) if length > 1]
    if len(wide) > 1:
        return None
    if not wide:
        return [stored, *(factor.reshape(()) for factor in factors)], {}
    return [stored, *(factor.ravel() for factor in factors)], {"axis": wide[0]}


def _blocks(stored: np.ndarray, factors: list[np.ndarray], shape: tuple[int, ...]) -> _Laid | None:
    """The axis of blocks and the one of their elements together are an axis of the weight."""
    for axis in range(stored.ndim - 1):
        before, blocks, length = stored.shape[:axis], stored.shape[axis], stored.shape[axis + 1]
        after = stored.shape[axis + 2 :]
        merged, expected = (*before, blocks * length, *after), (*before, blocks, 1, *after)
        if merged == shape and factors[0].shape == expected:
            squeezed = [np.squeeze(factor, axis + 1) for factor in factors]
            return [stored.reshape(shape), *squeezed], {"axis": axis, "block_size": length}
    return None
