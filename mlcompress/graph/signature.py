"""What a model takes and gives: names, dtypes and shapes of its inputs and outputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress.errors import ModelError


@dataclass(frozen=True)
class Tensor:
    """One input or output. A `str` in `shape` is a named dynamic axis, None an unnamed one."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the order of the file."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def signature(model: ir.Model) -> Signature:
    """Declared inputs and outputs.

    Raises ModelError for sequences, maps and optional values, and for a missing type or shape.
    """
    graph = model.graph
    lines = [line for value in (*graph.inputs, *graph.outputs) if (line := _problem(value))]
    if lines:
        raise ModelError(*lines)
    return Signature(tuple(map(_tensor, graph.inputs)), tuple(map(_tensor, graph.outputs)))


def known_axis(axis: int | ir.SymbolicDim) -> int | str | None:
    """A static length, a name, or None: files also write "?", "-1" and -1 for an axis of unknown length."""
    if isinstance(axis, int):
        return axis if axis >= 0 else None
    return None if axis.value in (None, "", "?", "-1") else axis.value


def _problem(value: ir.Value) -> str | None:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return f"{value.name}: is no tensor; models with sequences, maps or optional values are not supported"
    if value.dtype is None:
        return f"{value.name}: the file gives no element type; export the model again"
    if value.shape is None:
        return (
            f"{value.name}: the file gives no shape, not even the number of axes; export the model with one"
        )
    return None


def _tensor(value: ir.Value) -> Tensor:
    dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype  # `_problem` has refused None
    return Tensor(str(value.name), np.dtype(dtype.numpy()), tuple(map(known_axis, value.shape or ())))
