"""Initializers: values of a graph that hold numbers."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph import mapped


def numbers(value: ir.Value) -> NDArray[Any]:
    """The array of an initializer; not to be written to. Raises ValueError for a value that is none."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is not an initializer")
    return value.const_value.numpy()


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer that no caller can replace; None for all other values and for no value."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value.numpy()


def set_numbers(value: ir.Value, array: NDArray[Any]) -> None:
    """Give an initializer `array` (made read-only by a view), and with it its dtype and shape.

    Large arrays go where `mapped.spilling` says.
    """
    hold(value, mapped.keep(np.asarray(array)))


def hold(value: ir.Value, array: NDArray[Any]) -> None:
    """The same, in memory in any case: for numbers that may be thrown away."""
    view = array.view()
    view.setflags(write=False)
    tensor = ir.tensor(view, name=value.name)
    value.const_value, value.type, value.shape = tensor, ir.TensorType(tensor.dtype), ir.Shape(view.shape)


def initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer of `graph`. The name must be free."""
    value = ir.Value(name=name)
    set_numbers(value, array)
    graph.register_initializer(value)
    return value


def initializers(model: ir.Model) -> list[ir.Value]:
    """Those of the graph and of its sub-graphs, in file order."""
    return [value for graph in model.graphs() for value in graph.initializers.values()]
