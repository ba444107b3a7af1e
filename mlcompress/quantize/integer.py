"""Which nodes can run as integers, and which tensors that makes 8-bit.

Two kinds of node: *weighted* ones (Conv, Gemm, MatMul with a constant weight), which have the fast kernels,
and *joining* ones (residual Add, Concat, pooling), which are worth it only between integer neighbours. Nodes
that only move values (MaxPool, Reshape, ...) ride along and share the scale of their input.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant
from mlcompress.quantize.fuse import attribute

WEIGHTED = ("Conv", "Gemm", "MatMul")
JOINING = ("Add", "Concat", "GlobalAveragePool", "AveragePool")
MOVING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Identity")
FLOAT_OUTPUT = ("Gemm", "MatMul")
"""Their integer kernels can give float, so their outputs need no quantiser of their own."""

Allowed = Callable[[ir.Node], bool]


@dataclass(frozen=True)
class Layout:
    """Integer nodes in graph order, and the tensors that carry 8-bit values."""

    nodes: list[ir.Node]
    roots: dict[ir.Value, ir.Value]
    """Quantised tensor: the tensor whose range gives its scale (itself, or what a moving node moved)."""
    owned: set[ir.Value]
    """Quantised tensors that an integer kernel makes: no float copy of them exists."""


def obstacle(node: ir.Node) -> str | None:
    """Why a weighted node must stay float, or None when it can run as integers."""
    weight = constant(node.inputs[1])
    if node.inputs[0] is None or node.inputs[0].const_value is not None:
        return "its input is a constant"
    if weight is None:
        return "its weight is not a constant"
    if weight.dtype != "float32":
        return f"its weight is {weight.dtype}"
    if node.inputs[1] is not None and node.inputs[1].is_graph_output():
        return "its weight is a graph output"
    if node.op_type != "Conv" and weight.ndim != 2:
        return f"its weight has {weight.ndim} axes, 2 are needed"
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1):
        return "its alpha or beta is not 1"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant(node.inputs[2])
        if bias is None:
            return "its bias is not a constant"
        if bias.size not in (1, weight.shape[output_axis(node)]):
            return "its bias is not one number per output"
    return None


def in_domain(node: ir.Node, ops: Iterable[str]) -> bool:
    """Whether the node is one of these standard ops."""
    return node.domain in ("", "ai.onnx") and node.op_type in ops


def lay_out(graph: ir.Graph, allowed: Allowed) -> Layout:
    """Choose integer nodes among the allowed ones and the tensors to quantise.

    Every allowed weighted node without an obstacle is taken; a joining node when all it reads is 8-bit
    anyway.
    """
    nodes = _choose(graph, allowed)
    chosen = set(nodes)
    moving = _moving(graph, chosen)
    roots: dict[ir.Value, ir.Value] = {}
    owned: set[ir.Value] = set()
    for node in graph:
        if node in chosen:
            for value in activations(node):
                roots.setdefault(value, value)
            if node.op_type not in FLOAT_OUTPUT:
                result = fused_output(node)
                roots[result] = result
                owned.add(result)
        elif node in moving and node.inputs[0] in owned:
            roots[node.outputs[0]] = roots[node.inputs[0]]
            owned.add(node.outputs[0])
    return Layout(nodes, roots, owned)


def activations(node: ir.Node) -> list[ir.Value]:
    """The tensors that an integer node reads as 8-bit activations."""
    read = node.inputs[:1] if node.op_type in WEIGHTED else node.inputs
    return [value for value in read if value is not None]


def fused_output(node: ir.Node) -> ir.Value:
    """What the node's quantiser follows: the output, or that of the Relu or Clip from 0 that alone reads it.

    A kernel that saturates at the quantiser's range needs no Relu; a quantiser in between would cost
    accuracy.
    """
    output = node.outputs[0]
    users = [use.node for use in output.uses()]
    if (
        len(users) == 1
        and not output.is_graph_output()
        and users[0].graph is node.graph
        and clips_at_zero(users[0])
    ):
        return users[0].outputs[0]
    return output


def clips_at_zero(node: ir.Node) -> bool:
    """Relu, or Clip whose lower bound is the constant 0."""
    if in_domain(node, ("Relu",)):
        return True
    low = constant(node.inputs[1]) if in_domain(node, ("Clip",)) and len(node.inputs) > 1 else None
    return low is not None and low.size == 1 and float(low.ravel()[0]) == 0.0


def _choose(graph: ir.Graph, allowed: Allowed) -> list[ir.Node]:
    """Integer nodes in graph order; `eight_bit` grows to the tensors that are 8-bit because of them."""
    weighted = [n for n in graph if in_domain(n, WEIGHTED) and allowed(n) and obstacle(n) is None]
    chosen = set(weighted)
    eight_bit = {value for node in weighted for value in activations(node)}
    made: set[ir.Value] = set()
    for node in graph:
        if node in chosen:
            joined = True
        elif in_domain(node, JOINING) and allowed(node):
            read = activations(node)
            joined = any(value in made for value in read) and all(value in made | eight_bit for value in read)
        else:
            joined = False
        if joined:
            chosen.add(node)
            if node.op_type not in FLOAT_OUTPUT:
                made.add(fused_output(node))
        elif in_domain(node, MOVING) and node.inputs[0] in made and len(node.outputs) == 1:
            made.add(node.outputs[0])
    return [node for node in graph if node in chosen]


def _moving(graph: ir.Graph, chosen: set[ir.Node]) -> set[ir.Node]:
    """Moving nodes between an integer node and another: what they move stays 8-bit."""
    moving: set[ir.Node] = set()
    for node in reversed(graph):
        if in_domain(node, MOVING) and len(node.outputs) == 1:
            readers = {use.node for use in node.outputs[0].uses()}
            if readers & (chosen | moving):
                moving.add(node)
    return moving
