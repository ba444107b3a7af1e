"""Matrix products: Gemm, MatMul, attention."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules import rewrite, rule
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
    """Attention-23 on (batch, heads, time, width) or packed (batch, time, heads * width): heads go together.

    The width stays, since the default scale depends on it, and so does everything for grouped heads and
    caches of past keys.
    """
    values = [value for value in node.inputs if value is not None]
    q, k, v = (operand(node, index) for index in range(3))
    if _packed(node, trace):
        return
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


def _packed(node: ir.Node, trace: Trace) -> bool:
    """Packed operands, as many heads of keys as of queries: element h*w + j belongs to head h."""
    heads = node.attributes.get_int("q_num_heads", 0)
    axes = [trace.of(value)[-1] for value in (operand(node, index) for index in range(3))]
    whole = [axis for axis in axes if axis is not None and heads and len(axis) % heads == 0]
    ranks = [trace.rank(operand(node, index)) for index in range(3)]
    if ranks != [3, 3, 3] or len(whole) < 3 or heads != node.attributes.get_int("kv_num_heads", 0):
        return False
    mask = optional(node, 3)
    if any(optional(node, index) is not None for index in range(4, len(node.inputs))):
        return False
    if any(value.uses() for value in node.outputs[1:]):
        return False
    units = [trace.atoms.unify_rows(axis.reshape(heads, -1)) for axis in whole]
    for unit in units[1:]:
        trace.atoms.unify(units[0], unit)
    trace.kinds.append((units[0], "head"))
    for place, axis in enumerate(reversed([] if mask is None else trace.of(mask))):
        if place == 2 and axis is not None:
            trace.atoms.unify(units[0], axis)
        else:
            trace.atoms.freeze(axis)
    trace.set(node.outputs[0], [None, None, np.repeat(units[2], len(whole[2]) // heads)])
    return True


@rewrite("Attention")
def fewer_heads(node: ir.Node, cut: Cut) -> None:
    """How many heads packed operands have."""
    heads = node.attributes.get_int("q_num_heads", 0)
    live = cut.live(operand(node, 0), -1) if heads else None
    if live is not None and cut.rank(operand(node, 0)) == 3:
        left = int(live.reshape(heads, -1)[:, 0].sum())
        for name in ("q_num_heads", "kv_num_heads"):
            node.attributes[name] = ir.AttrInt64(name, left)
