"""Static INT8: QuantizeLinear and DequantizeLinear around the nodes that run as integers (the Q/DQ form).

Activations uint8 with a zero point, weights int8 per output channel, biases int32 at input scale x weight
scale. onnxruntime fuses DQ -> op -> Q into one integer kernel when every tensor around it is written exactly
so. A MatMul is written as MatMulInteger instead: in graphs with fixed shapes onnxruntime 1.32 merges MatMul
and its bias Add into a float Gemm before it looks for Q/DQ (an encoder of width 384 then runs 4.4 times
slower than fp32, not .42).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from mlcompress.graph.insert import Insertion
from mlcompress.quantize.integer import Layout, activations
from mlcompress.quantize.product import integer_matrix, rewrite_product
from mlcompress.quantize.qdq_weights import insert_weights
from mlcompress.quantize.weights import activation_parameters

Range = tuple[float, float]


@dataclass
class _Quantised:
    """What the quantisers of a graph look like, by the tensor that they follow."""

    steps: dict[ir.Value, np.float32] = field(default_factory=dict)
    """Tensor to scale, as a number."""
    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    """Root tensor to the initializers that hold its scale and zero point."""
    codes: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """Tensor to its uint8 form."""


def insert_qdq(
    model: ir.Model, layout: Layout, ranges: Mapping[str, Range], *, per_channel: bool = True
) -> None:
    """Write the layout into the model, in place.

    `ranges` holds the lowest and highest value of every tensor in `set(layout.roots.values())`, by name.
    """
    insertion = Insertion(model.graph)
    sources = {node: node.inputs[0] for node in layout.nodes if node.inputs[0] is not None}
    products = [node for node in layout.nodes if node.op_type == "MatMul"]
    weighted = [node for node in layout.nodes if node.op_type in ("Conv", "Gemm")]
    made = _insert_activations(insertion, layout, ranges)
    insert_weights(insertion, weighted, {node: made.steps[sources[node]] for node in weighted}, per_channel)
    matrices: dict[ir.Value, tuple[ir.Value, np.ndarray]] = {}
    for node in products:
        source, weight = sources[node], node.inputs[1]
        if weight is None:
            continue
        if weight not in matrices:
            matrices[weight] = integer_matrix(insertion, node, weight, per_channel)
        stored, scales = matrices[weight]
        scale = insertion.constant(f"{node.outputs[0].name}_scale", scales * made.steps[source])
        zero = made.parameters[layout.roots[source]][1]
        rewrite_product(insertion, node, made.codes[source], zero, stored, [scale])
    insertion.drop_unread()


def _insert_activations(insertion: Insertion, layout: Layout, ranges: Mapping[str, Range]) -> _Quantised:
    """One Q/DQ pair per quantised tensor (no DQ where only MatMulInteger reads it)."""
    integer = set(layout.nodes)
    moved = {value.producer() for value, root in layout.roots.items() if value is not root}
    made = _Quantised()
    for value, root in layout.roots.items():
        scale, zero = activation_parameters(*ranges[str(root.name)])
        made.steps[value] = scale
        if root not in made.parameters:
            made.parameters[root] = (
                insertion.constant(f"{root.name}_scale", np.asarray(scale)),
                insertion.constant(f"{root.name}_zero_point", np.asarray(zero)),
            )
    for value, root in layout.roots.items():
        uses = [
            use
            for use in value.uses()
            if value in layout.owned
            or use.node in moved
            or (use.node in integer and value in activations(use.node))
        ]
        products = {use.node for use in uses if use.node in integer and use.node.op_type == "MatMul"}
        readers = [use for use in uses if use.node not in products]
        pair = _pair(insertion, value, made.parameters[root])
        made.codes[value] = pair[0].outputs[0]
        is_output = value in layout.owned and value.is_graph_output()
        if not readers and not is_output:
            pair = pair[:1]
        for use in readers:
            use.node.replace_input_with(use.idx, pair[1].outputs[0])
        insertion.after(value, pair)
        if is_output:
            _swap_output(insertion, value, pair[1].outputs[0])
    return made


def _pair(insertion: Insertion, value: ir.Value, parameters: tuple[ir.Value, ir.Value]) -> list[ir.Node]:
    name, shape = str(value.name), value.shape
    quantise = insertion.node(
        "QuantizeLinear", [value, *parameters], f"{name}_quantized", ir.DataType.UINT8, stem=name, shape=shape
    )
    inputs = [quantise.outputs[0], *parameters]
    restore = insertion.node(
        "DequantizeLinear", inputs, f"{name}_dequantized", ir.DataType.FLOAT, stem=name, shape=shape
    )
    return [quantise, restore]


def _swap_output(insertion: Insertion, made: ir.Value, restored: ir.Value) -> None:
    """The graph's output is what was dequantised; it keeps the name that the user knows."""
    name = str(made.name)
    made.name = insertion.fresh(f"{name}_float")
    restored.name = name
    outputs = insertion.graph.outputs
    outputs[list(outputs).index(made)] = restored
