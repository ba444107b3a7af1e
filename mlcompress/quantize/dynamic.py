"""Dynamic INT8: MatMul and Gemm with the input quantised at run time, in standard ops.

    x -> DynamicQuantizeLinear -> MatMulInteger(int8 weight) -> Cast -> Mul(input scale x column scales) [->
    Add bias]

Signed weights: with unsigned ones onnxruntime takes a slow kernel (.92 instead of .40 of float latency).
onnxruntime fuses the chain into DynamicQuantizeMatMul. Conv stays float: ConvInteger measured 6 to 10 times
slower. LSTM: `recurrent.py`.
"""

from collections.abc import Callable

import onnx_ir as ir

from mlcompress.graph.columns import output_axis
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.integer import in_domain, obstacle
from mlcompress.quantize.mixed import Scheme
from mlcompress.quantize.product import integer_matrix, rewrite_product
from mlcompress.quantize.recurrent import LSTM, insert_lstm, lstm_obstacle

PRODUCTS = ("Gemm", "MatMul")
DYNAMIC = (*PRODUCTS, *LSTM)


def dynamic_obstacle(node: ir.Node) -> str | None:
    """Why a weighted node cannot run as dynamic integers, or None when it can."""
    if in_domain(node, ("Conv",)):
        return "Conv has no fast dynamic kernel; use `mode: static`"
    if in_domain(node, LSTM):
        return lstm_obstacle(node)
    return obstacle(node)


def insert_dynamic(
    model: ir.Model,
    allowed: Callable[[ir.Node], bool],
    *,
    per_channel: bool = True,
    scheme: Scheme = "int8",
) -> None:
    """Rewrite every allowed MatMul, Gemm and LSTM without an obstacle, in place."""
    insert_lstm(model, allowed, per_channel=per_channel, scheme=scheme)
    insertion = Insertion(model.graph)
    nodes = [n for n in model.graph if in_domain(n, PRODUCTS) and allowed(n) and dynamic_obstacle(n) is None]
    inputs: dict[ir.Value, ir.Node] = {}
    weights: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = {}
    for node in nodes:
        value, weight = node.inputs[0], node.inputs[1]
        if value is None or weight is None:
            continue
        if value not in inputs:
            inputs[value] = _quantise_input(insertion, value)
        key = (weight, output_axis(node))
        if key not in weights:
            stored, scales = integer_matrix(insertion, node, weight, per_channel, scheme)
            weights[key] = stored, insertion.constant(f"{weight.name}_scale", scales)
        stored, scale = weights[key]
        codes, input_scale, zero = inputs[value].outputs
        rewrite_product(insertion, node, codes, zero, stored, [input_scale, scale])
    insertion.drop_unread()


def _quantise_input(insertion: Insertion, value: ir.Value) -> ir.Node:
    """One DynamicQuantizeLinear per tensor, however many products read it: codes, scale, zero point."""
    name, shape = f"{value.name}_dynamic", value.shape
    node = insertion.node(
        "DynamicQuantizeLinear",
        [value],
        name,
        ir.DataType.UINT8,
        stem=str(value.name),
        shape=shape,
        outputs=3,
    )
    for output, dtype in zip(node.outputs[1:], (ir.DataType.FLOAT, ir.DataType.UINT8), strict=True):
        output.type, output.shape = ir.TensorType(dtype), ir.Shape(())
    insertion.after(value, [node])
    return node
