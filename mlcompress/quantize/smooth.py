"""SmoothQuant: outliers of activations move into weights, through scales per channel that change nothing
in float.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.measure.tapped import track
from mlcompress.quantize.fuse import attribute
from mlcompress.quantize.integer import in_domain, obstacle
from mlcompress.quantize.observers import ChannelMax

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

PRODUCTS = ("Gemm", "MatMul")
PASSING = ("Relu", "LeakyRelu")
"""f(x / s) = f(x) / s for s > 0."""
SEQUENCE = 3
"""Axes of a tensor that holds many vectors a sample."""


def smooth(
    model: ir.Model, data: "Dataset", kept: Collection[str], *, alpha: float, owned: Collection[ir.Value]
) -> dict[str, str]:
    """Y = (X / s) (s W), s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), for each input channel j (Xiao et
    al. 2023).

    For every sequence (three axes or more) that MatMul nodes with constant weights read, in place.
    The one vector a sample that a classifier reads is left alone: a few samples do not show how large each
    of its channels may become (EfficientNet-Lite0, 16 samples: 7 dB instead of 18). 1 / s goes into the
    node that makes the tensor where that is exact and nothing else reads it (LayerNormalization, Mul or
    Add by a constant, another product, through Relu), otherwise into one Mul. `owned` tensors, which
    integer kernels make, are not multiplied but left alone: that would break a chain. Nodes of `kept` keep
    what they read.

    Returns tensor name -> `folded` or `Mul`.
    """
    sites = _sites(model.graph, kept)
    seen = track(model, [str(value.name) for value in sites], data, ChannelMax)
    insertion, done = Insertion(model.graph), dict[str, str]()
    for value, nodes in sites.items():
        largest = seen[str(value.name)].largest
        scale = _scales(largest, nodes, alpha)
        if seen[str(value.name)].rank < SEQUENCE or largest.size == 1 or np.all(scale == scale[0]):
            continue
        inverse, name = 1 / scale, str(value.name)
        lone = {use.node for use in value.uses()} <= set(nodes) and not value.is_graph_output()
        if lone and _can_fold(value, len(scale)):
            _fold(insertion, value, inverse)
            done[name] = "folded"
        elif value in owned:
            continue
        else:
            _multiply(insertion, value, nodes, inverse.astype(np.float32))
            done[name] = "Mul"
        for node in nodes:
            array = np.asarray(constant(node.inputs[1]))
            stretched = array * (scale if output_axis(node) == 0 else scale[:, None])
            insertion.set_input(node, 1, stretched.astype(np.float32), f"{node.name}.weight")
    insertion.drop_unread()
    return done


def _sites(main: ir.Graph, kept: Collection[str]) -> dict[ir.Value, list[ir.Node]]:
    """Float tensors that products read, with these products; in graph order."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in main:
        if in_domain(node, PRODUCTS) and node.name not in kept and obstacle(node) is None:
            source = node.inputs[0]
            if source is not None and node.inputs[1] is not None and _may_be_sequence(node, source):
                found.setdefault(source, []).append(node)
    return found


def _may_be_sequence(reader: ir.Node, value: ir.Value) -> bool:
    """False where the axes are known to be too few: a pass over all samples would be for nothing."""
    return reader.op_type != "Gemm" and (value.shape is None or len(value.shape) >= SEQUENCE)


def _scales(largest: np.ndarray, nodes: list[ir.Node], alpha: float) -> np.ndarray:
    """float64 [K]; 1 where a channel of activations or weights is all zeros."""
    weights = np.zeros(largest.size)
    for node in nodes:
        array = np.abs(np.asarray(constant(node.inputs[1]), np.float64))
        weights = np.maximum(weights, array.max(axis=output_axis(node)))
    usable = (largest > 0) & (weights > 0)
    scale = np.where(usable, largest, 1.0) ** alpha / np.where(usable, weights, 1.0) ** (1 - alpha)
    return np.where(usable, np.clip(scale, 1e-4, 1e4), 1.0)


def _can_fold(value: ir.Value, width: int) -> bool:
    """Whether the node behind `value` can divide its last axis exactly."""
    node = value.producer()
    if node is None or (len(node.outputs) > 1 and any(output.uses() for output in node.outputs[1:])):
        return False
    if in_domain(node, ("LayerNormalization",)):
        rank = len(value.shape) if value.shape is not None else 0
        inputs = node.inputs[1:]
        return attribute(node, "axis", -1) in (-1, rank - 1) and all(_vector(part, width) for part in inputs)
    if in_domain(node, ("Mul", "Add")):
        fixed = [part for part in node.inputs if _vector(part, width)]
        if len(fixed) != 1:
            return False
        return node.op_type == "Mul" or _inner(node, fixed[0], width)
    if in_domain(node, PASSING):
        return _inner(node, None, width)
    if in_domain(node, PRODUCTS):
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return obstacle(node) is None and (bias is None or _vector(bias, width))
    return False


def _inner(node: ir.Node, fixed: ir.Value | None, width: int) -> bool:
    other = next(value for value in node.inputs if value is not fixed)
    lone = other is not None and len(other.uses()) == 1 and not other.is_graph_output()
    return lone and other is not None and _can_fold(other, width)


def _vector(value: ir.Value | None, width: int) -> bool:
    """A constant number, or one per channel of the last axis."""
    array = constant(value)
    return array is not None and array.dtype == np.float32 and array.ndim <= 1 and array.size in (1, width)


def _fold(insertion: Insertion, value: ir.Value, inverse: np.ndarray) -> None:
    """Multiply the last axis of `value` where it is made; `_can_fold` said yes."""
    node = value.producer()
    if node is None:
        return
    width = len(inverse)
    if in_domain(node, ("LayerNormalization",)):
        places = [index for index in range(1, len(node.inputs)) if node.inputs[index] is not None]
    elif in_domain(node, ("Mul", "Add")):
        places = [next(i for i, part in enumerate(node.inputs) if _vector(part, width))]
        if node.op_type == "Add":
            _descend(insertion, node, places[0], inverse)
    elif in_domain(node, PASSING):
        places = []
        _descend(insertion, node, None, inverse)
    else:
        places = [2] if len(node.inputs) > 2 and node.inputs[2] is not None else []
        array = np.asarray(constant(node.inputs[1]))
        factor = inverse[:, None] if output_axis(node) == 0 else inverse
        insertion.set_input(node, 1, (array * factor).astype(np.float32), f"{node.name}.weight")
    for index in places:
        array = np.asarray(constant(node.inputs[index]))
        insertion.set_input(node, index, (array * inverse).astype(np.float32), f"{node.name}.factor")


def _descend(insertion: Insertion, node: ir.Node, fixed: int | None, inverse: np.ndarray) -> None:
    other = next(value for index, value in enumerate(node.inputs) if index != fixed)
    if other is not None:
        _fold(insertion, other, inverse)


def _multiply(insertion: Insertion, value: ir.Value, nodes: list[ir.Node], inverse: np.ndarray) -> None:
    factor = insertion.constant(f"{value.name}_smoothing", inverse)
    product = insertion.node(
        "Mul", [value, factor], f"{value.name}_smoothed", ir.DataType.FLOAT, shape=value.shape
    )
    insertion.after(value, [product])
    for node in nodes:
        node.replace_input_with(0, product.outputs[0])
