"""Weights by name, as numpy arrays."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def weight(model: ir.Model, name: str) -> NDArray[Any]:
    """A view of the initializer `name`, in its own dtype and shape; not to be written to.

    Raises:
        KeyError: the graph has no such initializer.
    """
    tensor = model.graph.initializers[name].const_value
    if tensor is None:
        raise KeyError(name)
    return tensor.numpy()


def set_weight(model: ir.Model, name: str, array: NDArray[Any]) -> None:
    """Replace the values of the initializer `name`, keeping its dtype; the shape becomes that of `array`."""
    value = model.graph.initializers[name]
    if value.dtype is None:
        raise KeyError(name)
    fresh = np.ascontiguousarray(array.astype(value.dtype.numpy(), copy=False)).reshape(array.shape)
    value.const_value = ir.Tensor(fresh, name=name)
    value.shape = ir.Shape(array.shape)
