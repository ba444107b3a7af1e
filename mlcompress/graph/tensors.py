"""Weights by name, as numpy arrays."""

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.initializers import numbers, set_numbers


def weight(model: ir.Model, name: str) -> NDArray[Any]:
    """A view of the initializer `name`, in its own dtype and shape; not to be written to.

    Raises:
        KeyError: the graph has no such initializer.
    """
    return numbers(model.graph.initializers[name])


def set_weight(model: ir.Model, name: str, array: NDArray[Any]) -> None:
    """Replace the values of the initializer `name`, keeping its dtype; the shape becomes that of `array`."""
    value = model.graph.initializers[name]
    set_numbers(value, array.astype(numbers(value).dtype, copy=False))
