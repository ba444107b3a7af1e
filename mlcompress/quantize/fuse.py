"""Prepares a float graph for quantising: folds BatchNormalization and Gemm's factors, raises the opset."""

from collections.abc import Collection

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir

from mlcompress.errors import UnsupportedError
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion

PER_CHANNEL_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis from here on."""

SPATIAL_RANK = 4
"""Axes of a feature map with two spatial ones: fewer may be a sequence, whose means are another thing."""


def attribute(node: ir.Node, name: str, default: int | float) -> int | float:
    """An integer or float attribute, or its default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def fold_batch_norm(model: ir.Model) -> list[str]:
    """Fold each BatchNormalization into the Conv whose only reader it is; returns the names of the folded
    nodes.

    y = g (W x + b - m) / sqrt(v + e) + t   becomes   W' = W g / sqrt(v + e),  b' = (b - m) g / sqrt(v + e) +
    t per output channel. Tensors that other nodes read as well are copied first. The model is changed in
    place.
    """
    insertion, folded = Insertion(model.graph), []
    for norm in [node for node in model.graph if node.op_type == "BatchNormalization" and not node.domain]:
        conv = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if conv is None or not _foldable(conv, norm):
            continue
        gain, shift, mean, variance = (np.asarray(constant(value), np.float64) for value in norm.inputs[1:5])
        factor = gain / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        weight = np.asarray(constant(conv.inputs[1]))
        bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else None
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        moved = ((0.0 if bias is None else bias) - mean) * factor + shift
        insertion.set_input(conv, 1, scaled.astype(weight.dtype), f"{conv.name}.weight")
        insertion.set_input(conv, 2, moved.astype(weight.dtype), f"{conv.name}.bias")
        if norm.outputs[0].is_graph_output():
            _take_output(model.graph, norm.outputs[0], conv.outputs[0])
        ir.convenience.replace_all_uses_with(norm.outputs[0], conv.outputs[0])
        model.graph.remove(norm, safe=True)
        folded.append(str(norm.name))
    insertion.drop_unread()
    return folded


def fold_gemm_factors(model: ir.Model) -> None:
    """Fold Gemm's alpha into a constant weight and beta into a constant bias, in place.

    alpha A B + beta C = A (alpha B) + (beta C). Nodes with other operands keep their attributes.
    """
    insertion = Insertion(model.graph)
    for node in model.graph:
        if node.op_type != "Gemm" or node.domain:
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        for name, index in (("alpha", 1), ("beta", 2)):
            factor = attribute(node, name, 1.0)
            array = constant(node.inputs[index]) if index < len(node.inputs) else None
            if factor != 1.0 and array is not None:
                insertion.set_input(node, index, (array * factor).astype(array.dtype), f"{node.name}.{name}")
            if factor != 1.0 and (array is not None or (index == 2 and bias is None)):
                del node.attributes[name]
    insertion.drop_unread()


def pool_means(model: ir.Model, kept: Collection[str] = ()) -> list[str]:
    """ReduceMean over all spatial axes of [N, C, H, W, ...] becomes GlobalAveragePool (and Flatten), in
    place; nodes of `kept` stay.

    The same numbers, and an op that has an integer kernel. Returns the names of the replaced nodes.
    """
    insertion, replaced = Insertion(model.graph), []
    for node in [node for node in model.graph if node.op_type == "ReduceMean" and not node.domain]:
        value, result = node.inputs[0], node.outputs[0]
        if value is None or node.name in kept or not _over_space(node):
            continue
        keeps = attribute(node, "keepdims", 1)
        stem, kind = str(node.name), ir.DataType.FLOAT
        chain = [insertion.node("GlobalAveragePool", [value], f"{result.name}_pooled", kind, stem=stem)]
        if not keeps:
            chain.append(insertion.node("Flatten", chain[0].outputs, f"{result.name}_flat", kind, stem=stem))
        insertion.replace(node, chain, chain[-1].outputs[0])
        replaced.append(stem)
    insertion.drop_unread()
    return replaced


def _over_space(node: ir.Node) -> bool:
    """Whether a ReduceMean takes float32 [N, C, two axes or more] and all axes from the third on."""
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    if rank < SPATIAL_RANK or value is None or value.dtype != ir.DataType.FLOAT:
        return False
    held = node.attributes.get("axes")
    axes = held.value if held is not None else constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and sorted(int(axis) % rank for axis in axes) == list(range(2, rank))


def raise_opset(model: ir.Model, lowest: int) -> ir.Model:
    """The model in operator set `lowest` or newer, through onnx's version converter.

    Raises UnsupportedError when a node cannot be converted. The caller compares outputs.
    """
    if model.opset_imports.get("", 0) >= lowest:
        return model
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), lowest)
        onnx.checker.check_model(converted)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedError(
            f"model: operator set {model.opset_imports.get('')} cannot be raised to {lowest}, "
            f"as per-channel scales need ({reason}); export the model again with a newer operator set"
        ) from error
    raised: ir.Model = ir.from_proto(converted)
    return raised


def _foldable(conv: ir.Node, norm: ir.Node) -> bool:
    """Conv with constant weight and bias, read by this BatchNormalization alone, all in the main graph."""
    constants = [*conv.inputs[1:3], *norm.inputs[1:5]]
    return (
        conv.op_type == "Conv"
        and not conv.domain
        and conv.graph is norm.graph
        and len(conv.outputs[0].uses()) == 1
        and not conv.outputs[0].is_graph_output()
        and not attribute(norm, "training_mode", 0)
        and all(value is None or constant(value) is not None for value in constants)
    )


def _take_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make `new` a graph output in the place, and under the name, of `old`."""
    name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{name}_replaced"
    new.name = name
    graph.outputs[list(graph.outputs).index(old)] = new
