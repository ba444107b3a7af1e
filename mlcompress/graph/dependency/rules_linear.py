"""Matrix products: Gemm, MatMul, attention."""

import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.rules import rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.operands import operand, optional
from mlcompress.graph.shape_arguments import Size


@rule("Gemm")
def gemm(node: ir.Node, trace: Trace) -> None:
    """Y [M, N] = A' [M, K] B' [K, N] + C, where ' may transpose; C broadcasts to Y."""
    a, b, c = operand(node, 0), operand(node, 1), optional(node, 2)
    rows, summed_a = (1, 0) if node.attributes.get_int("transA", 0) else (0, 1)
    summed_b, columns = (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
    left, right = trace.of(a), trace.of(b)
    trace.atoms.unify(left[summed_a], right[summed_b])
    _sum_over(node, trace, a, summed_a, b, summed_b)
    trace.makes(node, b, columns)
    trace.makes(node, a, rows)
    axes = [left[rows], right[columns]]
    if c is not None:
        sizes = [trace.sizes(a)[rows], trace.sizes(b)[columns]]
        axes = trace.broadcast([(axes, sizes), (trace.of(c), trace.sizes(c))])
    trace.set(node.outputs[0], axes)


@rule("MatMul")
def matmul(node: ir.Node, trace: Trace) -> None:
    """Y [..., M, N] = A [..., M, K] B [..., K, N]; leading axes broadcast; 1-D operands are [K].

    The same for constant weights and for two activations, so QK^T and AV need no special case.
    """
    a, b = operand(node, 0), operand(node, 1)
    left, right = trace.of(a), trace.of(b)
    summed = max(len(right) - 2, 0)
    trace.atoms.unify(left[-1], right[summed])
    _sum_over(node, trace, a, len(left) - 1, b, summed)
    batch = trace.broadcast([(left[:-2], trace.sizes(a)[:-2]), (right[:-2], trace.sizes(b)[:-2])])
    if len(left) > 1:
        trace.makes(node, a, len(left) - 2)
        batch.append(left[-2])
    if len(right) > 1:
        trace.makes(node, b, len(right) - 1)
        batch.append(right[-1])
    trace.set(node.outputs[0], batch)


def _sum_over(node: ir.Node, trace: Trace, a: ir.Value, axis_a: int, b: ir.Value, axis_b: int) -> None:
    """Record the contraction with the constant factor, if any, as the weight."""
    if a.name in trace.weights and b.name not in trace.weights:
        trace.reads(node, a, axis_a, b, axis_b)
    else:
        trace.reads(node, b, axis_b, a, axis_a)


@rule("Attention")
def attention(node: ir.Node, trace: Trace) -> None:
    """Attention-23 on (batch, heads, time, width) tensors: heads go together.

    The width stays, since the default scale depends on it, and so does everything for packed (batch, time,
    width) tensors, grouped heads, and caches of past keys.
    """
    values = [value for value in node.inputs if value is not None]
    q, k, v = (operand(node, index) for index in range(3))
    heads = {trace.sizes(value)[1] for value in (q, k, v) if trace.rank(value) == 4}
    plain = all(trace.rank(value) == 4 for value in (q, k, v)) and len(heads) == 1
    if not plain or len(values) > 4 or any(value.uses() for value in node.outputs[1:]):
        trace.opaque(node, "this form of attention has no rule")
        return
    mask = optional(node, 3)
    lead: list[tuple[list[Axis], list[Size]]] = [(trace.of(x)[:2], trace.sizes(x)[:2]) for x in (q, k, v)]
    if mask is not None:
        padded: list[Axis] = [None] * (4 - len(trace.of(mask)))
        ones: list[Size] = [1] * len(padded)
        lead.append((padded + trace.of(mask)[:-2], ones + trace.sizes(mask)[:-2]))
    for value in (q, k, v):
        trace.keep(node, trace.of(value)[2:], "attention mixes this axis")
    if mask is not None:
        for axis in trace.of(mask)[-2:]:
            trace.atoms.freeze(axis)
    trace.set(node.outputs[0], [*trace.broadcast(lead), None, None])
