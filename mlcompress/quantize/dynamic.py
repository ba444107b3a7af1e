"""Dynamic INT8: MatMul and Gemm with the input quantised at run time, in standard ops.

    x -> DynamicQuantizeLinear -> MatMulInteger(int8 weight) -> Cast -> Mul(input scale x column scales) [-> Add bias]

Signed weights: with unsigned ones onnxruntime takes a slow kernel (.92 instead of .40 of float latency). onnxruntime
fuses the chain into DynamicQuantizeMatMul. Conv stays float: ConvInteger measured 6 to 10 times slower.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import array_of, attribute
from mlcompress.quantize.integer import in_domain, obstacle, output_axis
from mlcompress.quantize.weights import channel_scales, to_int8

DYNAMIC = ("Gemm", "MatMul")


def dynamic_obstacle(node: ir.Node) -> str | None:
    """Why a node cannot run as dynamic integers, or None when it can."""
    if in_domain(node, ("Conv",)):
        return "Conv has no fast dynamic kernel; use `mode: static`"
    reason = obstacle(node)
    if reason is None and node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    return reason


def insert_dynamic(model: ir.Model, allowed: Callable[[ir.Node], bool], *, per_channel: bool = True) -> list[ir.Node]:
    """Rewrite every allowed MatMul and Gemm in place. Gives the MatMulInteger nodes."""
    insertion = Insertion(model.graph)
    nodes = [n for n in model.graph if in_domain(n, DYNAMIC) and allowed(n) and dynamic_obstacle(n) is None]
    quantised: dict[ir.Value, ir.Node] = {}
    weights: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = {}
    made = []
    for node in nodes:
        value, weight = node.inputs[0], node.inputs[1]
        if value is None or weight is None:
            continue
        if value not in quantised:
            quantised[value] = _quantise_input(insertion, value)
        key = (weight, output_axis(node))
        if key not in weights:
            weights[key] = _integer_weight(insertion, node, weight, per_channel)
        made.append(_rewrite(insertion, node, quantised[value], *weights[key]))
    insertion.drop_unread()
    return made


def _quantise_input(insertion: Insertion, value: ir.Value) -> ir.Node:
    name = f"{value.name}_dynamic"
    node = insertion.node(
        "DynamicQuantizeLinear", [value], name, ir.DataType.UINT8, stem=str(value.name), shape=value.shape, outputs=3
    )
    for output, dtype in zip(node.outputs[1:], (ir.DataType.FLOAT, ir.DataType.UINT8), strict=True):
        output.type, output.shape = ir.TensorType(dtype), ir.Shape(())
    insertion.after(value, [node])
    return node


def _integer_weight(
    insertion: Insertion, node: ir.Node, weight: ir.Value, per_channel: bool
) -> tuple[ir.Value, ir.Value]:
    """int8 [K, N] and its scales [N] (or a scalar) as initializers; a transposed Gemm weight is turned."""
    array = np.asarray(array_of(weight))
    columns = array.T if output_axis(node) == 0 else array
    scales = channel_scales(columns, (1,) if per_channel else ())
    integers = np.ascontiguousarray(to_int8(columns, scales))
    stored = insertion.constant(f"{weight.name}_quantized", integers)
    scale = insertion.constant(f"{weight.name}_scale", scales.ravel() if per_channel else scales.reshape(()))
    return stored, scale


def _rewrite(
    insertion: Insertion, node: ir.Node, quantised: ir.Node, weight: ir.Value, scale: ir.Value
) -> ir.Node:
    """Replace one node; its output keeps its name."""
    output, stem = node.outputs[0], str(node.name)
    codes, input_scale, zero = quantised.outputs
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    product = insertion.node(
        "MatMulInteger", [codes, weight, zero], f"{output.name}_integer", ir.DataType.INT32, stem=stem
    )
    to = {"to": int(ir.DataType.FLOAT)}
    cast = insertion.node("Cast", product.outputs, f"{output.name}_cast", ir.DataType.FLOAT, stem=stem, attributes=to)
    step = insertion.node("Mul", [input_scale, scale], f"{output.name}_scale", ir.DataType.FLOAT, stem=f"{stem}_scale")
    scaled = insertion.node(
        "Mul", [cast.outputs[0], step.outputs[0]], f"{output.name}_scaled", ir.DataType.FLOAT, stem=stem
    )
    chain = [product, cast, step, scaled]
    if bias is not None:
        inputs = [scaled.outputs[0], bias]
        chain.append(insertion.node("Add", inputs, f"{output.name}_biased", ir.DataType.FLOAT, stem=stem))
    result = chain[-1].outputs[0]
    insertion.replace(node, chain, result)
    return product
