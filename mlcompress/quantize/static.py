"""Static INT8: QuantizeLinear and DequantizeLinear around the nodes that run as integers (the Q/DQ form).

Activations uint8 with a zero point, weights int8 per output channel, biases int32 at input scale x weight scale.
onnxruntime fuses DQ -> op -> Q into one integer kernel when every tensor around it is written exactly so.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import array_of
from mlcompress.quantize.integer import FLOAT_OUTPUT, WEIGHTED, Layout, activations, output_axis
from mlcompress.quantize.weights import BIAS_MAX, activation_parameters, channel_scales, to_int8, to_int32

Range = tuple[float, float]


def insert_qdq(model: ir.Model, layout: Layout, ranges: Mapping[str, Range], *, per_channel: bool = True) -> None:
    """Write the layout into the model, in place.

    `ranges` holds the lowest and highest value of every tensor in `set(layout.roots.values())`, by name.
    """
    insertion = Insertion(model.graph)
    scales = _insert_activations(insertion, layout, ranges)
    _insert_weights(insertion, layout, scales, per_channel)


def _insert_activations(
    insertion: Insertion, layout: Layout, ranges: Mapping[str, Range]
) -> dict[ir.Node, np.float32]:
    """One Q/DQ pair per quantised tensor. Gives the input scale of every integer node."""
    integer = set(layout.nodes)
    moved = {value.producer() for value, root in layout.roots.items() if value is not root}
    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    steps: dict[ir.Value, np.float32] = {}
    input_scales: dict[ir.Node, np.float32] = {}
    for value, root in layout.roots.items():
        if root not in parameters:
            scale, zero = activation_parameters(*ranges[str(root.name)])
            steps[root] = scale
            parameters[root] = (
                insertion.constant(f"{root.name}_scale", np.asarray(scale)),
                insertion.constant(f"{root.name}_zero_point", np.asarray(zero)),
            )
        for use in value.uses():
            if use.idx == 0 and use.node in integer:
                input_scales[use.node] = steps[root]
    for value, root in layout.roots.items():
        readers = [
            use
            for use in value.uses()
            if value in layout.owned
            or use.node in moved
            or (use.node in integer and value in activations(use.node))
        ]
        name = str(value.name)
        quantise = insertion.node(
            "QuantizeLinear",
            [value, *parameters[root]],
            f"{name}_quantized",
            ir.DataType.UINT8,
            stem=name,
            shape=value.shape,
        )
        restore = insertion.node(
            "DequantizeLinear",
            [quantise.outputs[0], *parameters[root]],
            f"{name}_dequantized",
            ir.DataType.FLOAT,
            stem=name,
            shape=value.shape,
        )
        for use in readers:
            use.node.replace_input_with(use.idx, restore.outputs[0])
        insertion.after(value, [quantise, restore])
        if value in layout.owned and value.is_graph_output():
            _swap_output(insertion, value, restore.outputs[0])
    return input_scales


def _swap_output(insertion: Insertion, made: ir.Value, restored: ir.Value) -> None:
    """The graph's output is what was dequantised; it keeps the name that the user knows."""
    name = str(made.name)
    made.name = insertion.fresh(f"{name}_float")
    restored.name = name
    outputs = insertion.graph.outputs
    outputs[list(outputs).index(made)] = restored


def _insert_weights(
    insertion: Insertion, layout: Layout, input_scales: Mapping[ir.Node, np.float32], per_channel: bool
) -> None:
    weighted = [node for node in layout.nodes if node.op_type in WEIGHTED]
    groups: dict[tuple[ir.Value, int], list[ir.Node]] = {}
    for node in weighted:
        weight = node.inputs[1]
        if weight is not None:
            groups.setdefault((weight, output_axis(node)), []).append(node)
    chains: list[ir.Node] = []
    for (weight, axis), readers in groups.items():
        array = np.asarray(array_of(weight))
        axes = (axis,) if per_channel else ()
        floor = _bias_floor(array, axis, readers, input_scales, per_channel)
        scales = channel_scales(array, axes, floor)
        restore = _integer_weight(insertion, weight, readers, to_int8(array, scales), scales, axes)
        chains.append(restore)
        for node in readers:
            node.replace_input_with(1, restore.outputs[0])
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if bias is not None:
                step = scales.ravel() * input_scales[node]
                chains.append(_integer_bias(insertion, node, bias, step, array.shape[axis]))
    insertion.at_start(chains)
    insertion.drop_unread()


def _bias_floor(
    weight: np.ndarray,
    axis: int,
    readers: list[ir.Node],
    input_scales: Mapping[ir.Node, np.float32],
    per_channel: bool,
) -> np.ndarray:
    """Smallest weight scale per channel at which every reader's bias fits into int32.

    Channels that pruning or training has emptied have tiny weights beside an ordinary bias.
    """
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    floor = np.zeros(shape)
    for node in readers:
        bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            needed = np.abs(bias.astype(np.float64)).ravel() / (float(input_scales[node]) * BIAS_MAX)
            floor = np.maximum(floor, np.broadcast_to(needed, weight.shape[axis]).reshape(shape))
    return floor if per_channel else floor.max(keepdims=True)


def _integer_weight(
    insertion: Insertion,
    weight: ir.Value,
    readers: list[ir.Node],
    integers: np.ndarray,
    scales: np.ndarray,
    axes: tuple[int, ...],
) -> ir.Node:
    """The int8 initializer and its DequantizeLinear. It keeps the weight's name unless a float reader needs that."""
    name = str(weight.name)
    if all(use.node in readers for use in weight.uses()):
        weight.const_value = ir.tensor(integers, name=name)
        weight.dtype = ir.DataType.INT8
        stored = weight
    else:
        stored = insertion.constant(f"{name}_quantized", integers)
    scale = insertion.constant(f"{name}_scale", scales.ravel() if axes else scales.reshape(()))
    parameters = [scale]
    if any(node.op_type in FLOAT_OUTPUT for node in readers):
        # Left out, onnxruntime 1.32 runs Gemm and MatMul in float; QLinearConv does without.
        parameters.append(insertion.constant(f"{name}_zero_point", np.zeros(scale.shape.numpy(), np.int8)))
    return insertion.node(
        "DequantizeLinear",
        [stored, *parameters],
        f"{name}_dequantized",
        ir.DataType.FLOAT,
        stem=name,
        shape=ir.Shape(integers.shape),
        attributes={"axis": axes[0]} if axes else {},
    )


def _integer_bias(
    insertion: Insertion, node: ir.Node, bias: ir.Value, step: np.ndarray, channels: int
) -> ir.Node:
    """The int32 initializer (a new one where several nodes share the bias) and its DequantizeLinear."""
    name = str(bias.name)
    values = np.broadcast_to(np.asarray(array_of(bias)).ravel(), (channels,))
    integers = to_int32(values, step)
    if len(bias.uses()) == 1 and not bias.is_graph_output():
        bias.const_value = ir.tensor(integers, name=name)
        bias.dtype, bias.shape = ir.DataType.INT32, ir.Shape(integers.shape)
        stored = bias
    else:
        stored = insertion.constant(f"{name}_quantized", integers)
    scale = insertion.constant(f"{name}_scale", step if step.size > 1 else step.reshape(()))
    restore = insertion.node(
        "DequantizeLinear",
        [stored, scale],
        f"{name}_dequantized",
        ir.DataType.FLOAT,
        stem=name,
        shape=ir.Shape((channels,)),
        attributes={"axis": 0} if step.size > 1 else {},
    )
    node.replace_input_with(2, restore.outputs[0])
    return restore
