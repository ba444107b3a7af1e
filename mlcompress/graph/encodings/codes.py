"""What a stored weight stands for, apart from how it is stored."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.registry import Registry

Array = NDArray[Any]

encodings = Registry("encoding")
"""Functions `(chain, codes) -> value` that write a weight into a graph; see `mlcompress.graph.encodings`."""


class UnfitError(ValueError):
    """The numbers cannot be stored in the form asked for; the message says why."""


_CHUNK = 2**16
"""Elements that are counted at a time: numpy makes int64 of what it counts."""


@dataclass(frozen=True)
class Codes:
    """A weight as levels and what makes numbers of them: `(stored - zero) * scale`, in float32.

    `stored` is int8, uint8, float16, bfloat16 or float32; `scale` (float32) and `zero` (uint8) broadcast
    against it, None where there are none. `shape` is that of the weight where `stored` has another one, with
    its elements in the same order.
    """

    stored: Array
    scale: Array | None = None
    zero: Array | None = None
    shape: tuple[int, ...] | None = None
    integer: bool = False
    """The decoded tensor is `stored` itself, int8, for a node that dequantises or multiplies integers."""

    @property
    def kind(self) -> ir.DataType:
        """Element type of the decoded tensor."""
        return ir.DataType.INT8 if self.integer else ir.DataType.FLOAT

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        return tuple(self.stored.shape) if self.shape is None else self.shape

    def values(self) -> Array:
        """The decoded tensor: int8 or float32."""
        if self.integer:
            return self.stored
        found = self.stored.astype(np.float32)
        if self.zero is not None:
            found = found - self.zero.astype(np.float32)
        if self.scale is not None:
            found = found * self.scale
        return found.reshape(self.decoded_shape)


def is_integer(array: Array) -> bool:
    """Are these levels integers of at most 8 bits?"""
    return array.dtype in (np.int8, np.uint8)


def distinct(array: Array) -> tuple[Array, Array]:
    """The sorted distinct levels, and for each element the index of its own (whole numbers, as `array`).

    Negative zero is a level of its own: decoding must give the same bits.
    """
    if is_integer(array):
        table, places = levels(array), np.zeros(256, np.uint8)
        places[table.view(np.uint8)] = np.arange(len(table))
        return table, places[np.ascontiguousarray(array).view(np.uint8)]
    bits = array.view(np.uint32 if array.dtype == np.float32 else np.uint16)
    found, index = np.unique(bits, return_inverse=True)
    return found.view(array.dtype), index.reshape(array.shape)


def levels(array: Array) -> Array:
    """The sorted distinct levels of an array of small integers."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    found = np.zeros(256, bool)
    for at in range(0, flat.size, _CHUNK):
        found |= np.bincount(flat[at : at + _CHUNK], minlength=256) > 0
    return np.sort(np.flatnonzero(found).astype(np.uint8).view(array.dtype))


def is_zero(array: Array) -> Array:
    """Positive zeros, as bool: what a sparse form leaves out."""
    if is_integer(array):
        return np.asarray(array == 0)
    return np.asarray(array.view(np.uint32 if array.dtype == np.float32 else np.uint16) == 0)


ELEMENT_TYPES = {
    np.dtype(np.int8): ir.DataType.INT8,
    np.dtype(np.uint8): ir.DataType.UINT8,
    np.dtype(np.float16): ir.DataType.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): ir.DataType.BFLOAT16,
    np.dtype(np.float32): ir.DataType.FLOAT,
}
