"""Weights and biases of Conv and Gemm in the Q/DQ form: an integer initializer and its DequantizeLinear."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant, set_numbers
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.mixed import Scheme, scheme_of
from mlcompress.quantize.weights import BIAS_MAX, quantised, to_int32


def insert_weights(
    insertion: Insertion,
    nodes: Sequence[ir.Node],
    input_scales: Mapping[ir.Node, np.float32],
    per_channel: bool,
    scheme: Scheme,
    scales: Mapping[str, np.ndarray],
) -> None:
    """Write int8 weights and int32 biases for these Conv and Gemm nodes.

    `scales`: those of weights that are on their grid already, by name.

    An initializer keeps its name (and becomes integer) unless a float node reads it too; then the nodes get a
    copy.
    """
    groups: dict[tuple[ir.Value, int], list[ir.Node]] = {}
    for node in nodes:
        if node.inputs[1] is not None:
            groups.setdefault((node.inputs[1], output_axis(node)), []).append(node)
    chains: list[ir.Node] = []
    for (weight, axis), readers in groups.items():
        array = np.asarray(constant(weight))
        axes = (axis,) if per_channel else ()
        if (given := scales.get(str(weight.name))) is not None:
            codes, steps = quantised(array, axes, scales=given)
        else:
            floor = bias_floor(array, axis, readers, input_scales)
            own = scheme_of(scheme, str(weight.name))
            codes, steps = quantised(
                array, axes, own, floor=floor if per_channel else floor.max(keepdims=True)
            )
        with_zero = any(node.op_type == "Gemm" for node in readers)
        restore = _weight(insertion, weight, readers, codes, steps, axis, with_zero)
        chains.append(restore)
        for node in readers:
            node.replace_input_with(1, restore.outputs[0])
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                step = np.asarray(steps.ravel() * input_scales[node], np.float32)
                chains.append(_bias(insertion, node, node.inputs[2], step, array.shape[axis]))
    insertion.at_start(chains)


def bias_floor(
    weight: np.ndarray, axis: int, readers: Sequence[ir.Node], input_scales: Mapping[ir.Node, np.float32]
) -> np.ndarray:
    """Smallest weight scale per channel at which every reader's bias fits into int32.

    Channels that pruning or training has emptied have tiny weights beside an ordinary bias.
    """
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    floor = np.zeros(shape)
    for node in readers:
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            needed = np.abs(bias.astype(np.float64)).ravel() / (float(input_scales[node]) * BIAS_MAX)
            floor = np.maximum(floor, np.broadcast_to(needed, weight.shape[axis]).reshape(shape))
    return floor


def _weight(
    insertion: Insertion,
    weight: ir.Value,
    readers: Sequence[ir.Node],
    integers: np.ndarray,
    scales: np.ndarray,
    axis: int,
    with_zero: bool,
) -> ir.Node:
    name, per_channel = str(weight.name), scales.size > 1
    if all(use.node in readers for use in weight.uses()):
        set_numbers(weight, integers)
        stored = weight
    else:
        stored = insertion.constant(f"{name}_quantized", integers)
    numbers = scales.ravel() if per_channel else scales.reshape(())
    inputs = [stored, insertion.constant(f"{name}_scale", numbers)]
    if with_zero:  # left out, onnxruntime 1.32 runs Gemm in float; QLinearConv does without
        inputs.append(insertion.constant(f"{name}_zero_point", np.zeros(numbers.shape, np.int8)))
    return _restore(insertion, name, inputs, integers.shape, axis if per_channel else None)


def _bias(insertion: Insertion, node: ir.Node, bias: ir.Value, step: np.ndarray, channels: int) -> ir.Node:
    name, per_channel = str(bias.name), step.size > 1
    values = np.broadcast_to(np.asarray(constant(bias)).ravel(), (channels,))
    integers = to_int32(values, step)
    if len(bias.uses()) == 1 and not bias.is_graph_output():
        set_numbers(bias, integers)
        stored = bias
    else:
        stored = insertion.constant(f"{name}_quantized", integers)
    inputs = [stored, insertion.constant(f"{name}_scale", step if per_channel else step.reshape(()))]
    restore = _restore(insertion, name, inputs, integers.shape, 0 if per_channel else None)
    node.replace_input_with(2, restore.outputs[0])
    return restore


def _restore(
    insertion: Insertion, name: str, inputs: list[ir.Value], shape: tuple[int, ...], axis: int | None
) -> ir.Node:
    return insertion.node(
        "DequantizeLinear",
        inputs,
        f"{name}_dequantized",
        ir.DataType.FLOAT,
        stem=name,
        shape=ir.Shape(shape),
        attributes={} if axis is None else {"axis": axis},
    )
