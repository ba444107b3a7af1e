"""An integer matrix product in standard ops: MatMulInteger, Cast, Mul by the scales; the bias in float."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.mixed import Scheme, scheme_of
from mlcompress.quantize.weights import quantised


def integer_matrix(
    insertion: Insertion,
    node: ir.Node,
    weight: ir.Value,
    per_channel: bool,
    scheme: Scheme = "int8",
    scales: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> tuple[ir.Value, np.ndarray]:
    """int8 [K, N] as an initializer, and its scales float32 [N] (or a scalar); a transposed Gemm weight is
    turned.

    `scales`: those of weights that are on their grid already, by name.
    """
    array = np.asarray(constant(weight))
    columns = array.T if output_axis(node) == 0 else array
    axes = (1,) if per_channel else ()
    if (given := scales.get(str(weight.name))) is not None:
        codes, steps = quantised(columns, axes, scales=given)
    else:
        codes, steps = quantised(columns, axes, scheme_of(scheme, str(weight.name)))
    stored = insertion.constant(f"{weight.name}_quantized", codes)
    return stored, steps.ravel() if per_channel else steps.reshape(())


def rewrite_product(
    insertion: Insertion,
    node: ir.Node,
    codes: ir.Value,
    zero: ir.Value,
    weight: ir.Value,
    scale: Sequence[ir.Value],
) -> ir.Node:
    """Replace a MatMul or Gemm; its output keeps its name. Gives the MatMulInteger.

    `codes` uint8 [..., K] with zero point `zero`; `weight` int8 [K, N]; `scale`: one value (input scale times
    weight scales, [N] or a scalar), or the two factors, which are then multiplied at run time.
    """
    output, stem = node.outputs[0], str(node.name)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    inputs = [codes, weight, zero]
    product = insertion.node("MatMulInteger", inputs, f"{output.name}_integer", ir.DataType.INT32, stem=stem)
    to = {"to": int(ir.DataType.FLOAT)}
    cast = insertion.node(
        "Cast", product.outputs, f"{output.name}_cast", ir.DataType.FLOAT, stem=stem, attributes=to
    )
    chain = [product, cast]
    if len(scale) == 2:
        chain.append(insertion.node("Mul", scale, f"{output.name}_scale", ir.DataType.FLOAT))
        scale = chain[-1].outputs
    scaled = [cast.outputs[0], scale[0]]
    chain.append(insertion.node("Mul", scaled, f"{output.name}_scaled", ir.DataType.FLOAT, stem=stem))
    if bias is not None:
        biased = [chain[-1].outputs[0], bias]
        chain.append(insertion.node("Add", biased, f"{output.name}_biased", ir.DataType.FLOAT, stem=stem))
    insertion.replace(node, chain, chain[-1].outputs[0])
    return product
