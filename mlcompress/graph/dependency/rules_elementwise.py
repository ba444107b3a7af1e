"""Ops that treat every element alike."""

import onnx_ir as ir

from mlcompress.graph.dependency.rules import rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.operands import axis_of, operand, optional

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp
    Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round
    Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
    com.microsoft::Gelu com.microsoft::QuickGelu
""".split()  # noqa: SIM905 - reads better than 50 quoted names
BROADCAST = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max
    Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor com.microsoft::BiasGelu com.microsoft::FastGelu
""".split()  # noqa: SIM905


@rule(*UNARY)
def unary(node: ir.Node, trace: Trace) -> None:
    """All axes pass. Further inputs (bounds, ratios, the type to cast to) are scalars or not read."""
    for value in node.outputs:
        trace.set(value, trace.of(operand(node, 0)))


@rule(*BROADCAST)
def elementwise(node: ir.Node, trace: Trace) -> None:
    """Aligned axes go together where both are longer than 1; constants carry atoms like anything else."""
    given = [value for value in node.inputs if value is not None]
    trace.set(node.outputs[0], trace.broadcast([(trace.of(value), trace.sizes(value)) for value in given]))


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(node: ir.Node, trace: Trace) -> None:
    """All axes pass; a scale and zero point per channel go with their axis."""
    x = operand(node, 0)
    axes = trace.of(x)
    for parameter in (operand(node, 1), optional(node, 2)):
        if parameter is None or trace.rank(parameter) == 0 or trace.sizes(parameter) == [1]:
            continue
        if trace.rank(parameter) != 1 or node.attributes.get_int("block_size", 0) > 0:
            trace.opaque(node, "its scales are per block")
            return
        channel = min(axis_of(node.attributes.get_int("axis", 1), len(axes)), len(axes) - 1)
        trace.atoms.unify(axes[channel], trace.of(parameter)[0])
    trace.set(node.outputs[0], axes)
