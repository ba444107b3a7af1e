"""Static INT8: QuantizeLinear and DequantizeLinear around the nodes that run as integers (the Q/DQ form).

Activations uint8 with a zero point (or another type), weights int8 per output channel, biases int32 at
input scale x weight scale. onnxruntime fuses DQ -> op -> Q into one integer kernel when every tensor
around it is written exactly so. A MatMul is written as MatMulInteger instead: in graphs with fixed shapes
onnxruntime 1.32 merges MatMul and its bias Add into a float Gemm before it looks for Q/DQ (an encoder of
width 384 then runs 4.4 times slower than fp32, not .42).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from mlcompress.graph.insert import Insertion
from mlcompress.quantize.activations import UINT8, Activation, Range
from mlcompress.quantize.integer import WEIGHTED, Layout, activations
from mlcompress.quantize.mixed import Scheme
from mlcompress.quantize.product import integer_matrix, rewrite_product
from mlcompress.quantize.qdq_weights import insert_weights


@dataclass
class _Quantised:
    """What the quantisers of a graph look like, by the tensor that they follow."""

    steps: dict[ir.Value, np.float32] = field(default_factory=dict)
    """Tensor to scale, as a number."""
    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    """Root tensor to the initializers that hold its scale and zero point."""
    codes: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """Tensor to its integer form."""


def insert_qdq(
    model: ir.Model,
    layout: Layout,
    ranges: Mapping[str, Range],
    *,
    per_channel: bool = True,
    scheme: Scheme = "int8",
    scales: Mapping[str, np.ndarray] = MappingProxyType({}),
    activation: Activation = UINT8,
    integer_products: bool = True,
) -> None:
    """Write the layout into the model, in place.

    `ranges` holds the lowest and highest value of every tensor in `set(layout.roots.values())`, by name;
    `scales` those of weights that are on their grid already. `integer_products`: MatMul as MatMulInteger.
    """
    insertion = Insertion(model.graph)
    sources = {node: node.inputs[0] for node in layout.nodes if node.inputs[0] is not None}
    # There is no MatMulInteger of 16 bits.
    as_integers = integer_products and not activation.is_wide
    products = [node for node in layout.nodes if node.op_type == "MatMul" and as_integers]
    weighted = [node for node in layout.nodes if node.op_type in WEIGHTED and node not in products]
    made = _insert_activations(insertion, layout, ranges, activation, products)
    steps = {node: made.steps[sources[node]] for node in weighted}
    insert_weights(insertion, weighted, steps, per_channel, scheme, scales)
    matrices: dict[ir.Value, tuple[ir.Value, np.ndarray]] = {}
    for node in products:
        source, weight = sources[node], node.inputs[1]
        if weight is None:
            continue
        if weight not in matrices:
            matrices[weight] = integer_matrix(insertion, node, weight, per_channel, scheme, scales)
        stored, columns = matrices[weight]
        scale = insertion.constant(f"{node.outputs[0].name}_scale", columns * made.steps[source])
        zero = made.parameters[layout.roots[source]][1]
        rewrite_product(insertion, node, made.codes[source], zero, stored, [scale])
    insertion.drop_unread()


def insert_for_training(
    model: ir.Model, layout: Layout, ranges: Mapping[str, Range]
) -> dict[str, tuple[str, str, str]]:
    """The quantisers that `insert_qdq` writes, by the same names, around float layers with float weights.

    Gives what each tensor with a range of its own is called from now on, and the initializers that hold
    scale and zero point, by the tensor's name.
    """
    names = {root: str(root.name) for root in layout.roots.values()}
    made = _insert_activations(Insertion(model.graph), layout, ranges, UINT8, ())
    return {
        names[root]: (str(root.name), str(scale.name), str(zero.name))
        for root, (scale, zero) in made.parameters.items()
    }


def _insert_activations(
    insertion: Insertion,
    layout: Layout,
    ranges: Mapping[str, Range],
    activation: Activation,
    products: Collection[ir.Node],
) -> _Quantised:
    """One Q/DQ pair per quantised tensor (no DQ where only MatMulInteger reads it)."""
    integer = set(layout.nodes)
    moved = {value.producer() for value, root in layout.roots.items() if value is not root}
    made = _Quantised()
    for value, root in layout.roots.items():
        scale, zero = activation.parameters(*ranges[str(root.name)])
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
        readers = [use for use in uses if use.node not in products]
        pair = _pair(insertion, value, made.parameters[root], activation.kind)
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


def _pair(
    insertion: Insertion, value: ir.Value, parameters: tuple[ir.Value, ir.Value], kind: ir.DataType
) -> list[ir.Node]:
    name, shape = str(value.name), value.shape
    quantise = insertion.node(
        "QuantizeLinear", [value, *parameters], f"{name}_quantized", kind, stem=name, shape=shape
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
