"""Axes read from a shape that are known although others are not: Slice or Gather of Cast of Shape of a value.

onnxscript propagates Gather of Shape only; converters from TensorFlow and Paddle cast to int32 and slice.
"""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import numbers

_KINDS = {ir.DataType.INT64: np.int64, ir.DataType.INT32: np.int32}


def known_axes(node: ir.Node) -> np.ndarray | None:
    """What `node` gives when it selects static axes of a shape by constants, else None."""
    if node.op_type not in ("Slice", "Gather") or node.domain != "" or node.inputs[0] is None:
        return None
    if any(v is not None and (not v.is_initializer() or v.is_graph_input()) for v in node.inputs[1:]):
        return None
    found = _axes(node.inputs[0])
    if found is None:
        return None
    axes, kind = found
    select = _slice if node.op_type == "Slice" else _gather
    places = select(node, len(axes))  # -1 stands for an unknown axis below, as no axis is negative
    if places is None:
        return None
    lengths = np.array([axis if isinstance(axis, int) else -1 for axis in axes], _KINDS[kind])
    chosen = lengths[places]
    return None if (chosen < 0).any() else chosen


def _axes(value: ir.Value) -> tuple[tuple[int | ir.SymbolicDim, ...], ir.DataType] | None:
    """Axes that the integer vector `value` holds, and its type."""
    node, kind = value.producer(), ir.DataType.INT64
    if node is not None and node.op_type == "Cast" and node.domain == "" and node.inputs[0] is not None:
        kind, node = ir.DataType(node.attributes.get_int("to", 0)), node.inputs[0].producer()
    if node is None or node.op_type != "Shape" or node.domain != "" or kind not in _KINDS:
        return None
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(source.shape))
    return source.shape[start:end], kind


def _slice(node: ir.Node, length: int) -> np.ndarray | None:
    """Slice(data, starts, ends, axes, steps) of a vector; its bounds count and clamp as Python's do."""
    read = [None if value is None else numbers(value).reshape(-1) for value in node.inputs[1:]]
    if len(read) < 2 or any(array is not None and array.size != 1 for array in read):
        return None
    step = int(read[3][0]) if len(read) > 3 and read[3] is not None else 1
    start, end = read[:2]
    if start is None or end is None or step < 1:
        return None
    return np.arange(length)[int(start[0]) : int(end[0]) : step]


def _gather(node: ir.Node, length: int) -> np.ndarray | None:
    index = node.inputs[1]
    if index is None or node.attributes.get_int("axis", 0) not in (0, -1):
        return None
    places = numbers(index)
    return places if ((places >= -length) & (places < length)).all() else None
