"""Peepholes of the executor: several nodes that torch runs as one function. The model itself is not touched.

Each rule looks at the last node of its pattern and gives a node of the table below in its place, or None;
what only fed the old node is dropped afterwards. No value that somebody asked for is hidden.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Run, op


@op("fused.Linear", "x weight bias")
def linear(node: Node) -> Run:
    """MatMul with a matrix [in, out], then Add of a vector [out]."""
    return lambda x, weight, bias: F.linear(x, weight.t(), bias)


@op("fused.Gelu", "x")
def gelu(node: Node) -> Run:
    """x (1 + erf(x / sqrt 2)) / 2"""
    return F.gelu


@op("fused.LayerNormalization", "x scale bias")
def layer_norm(node: Node, *, epsilon: float) -> Run:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis."""
    return lambda x, scale, bias: F.layer_norm(x, scale.shape, scale, bias, epsilon)


@op("fused.Attention", "q k v mask")
def attention(node: Node, *, scale: float) -> Run:
    """softmax(scale q k + mask) v; k: [..., width, keys]."""

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k.transpose(-2, -1), v, mask, scale=scale)

    return run


def fuse(nodes: Sequence[Node], kept: Collection[str], shapes: Mapping[str, torch.Size]) -> list[Node]:
    """The nodes with patterns replaced.

    `kept` are the values that must stay, `shapes` the shapes of weights and constants.
    """
    nodes = [
        node.inside(lambda b: replace(b, nodes=tuple(fuse(b.nodes, b.outputs, shapes)))) for node in nodes
    ]
    view = _View(nodes, kept, shapes)
    for position, node in enumerate(view.nodes):
        for rule in RULES.get(node.op, ()):
            found = rule(node, view)
            if found is not None:
                view.put(position, found)
                break
    return view.nodes


class _View:
    """Who makes a value, and whether anybody else reads it."""

    def __init__(
        self, nodes: Sequence[Node], kept: Collection[str], shapes: Mapping[str, torch.Size]
    ) -> None:
        self.nodes = list(nodes)
        self.makers = {name: node for node in nodes for name in node.outputs if name}
        self.reads = Counter(name for node in nodes for name in node.reads)
        self.kept = frozenset(kept)
        self.shapes = shapes

    def put(self, position: int, node: Node) -> None:
        self.nodes[position] = node
        self.makers[node.outputs[0]] = node

    def inner(self, name: str, *ops: str, reads: int = 1) -> Node | None:
        """The node of one of `ops` that makes `name`, if it is read `reads` times and nobody asked for it."""
        node = self.makers.get(name)
        if node is None or node.op not in ops or self.reads[name] != reads or name in self.kept:
            return None
        return node

    def shape(self, name: str) -> torch.Size | None:
        """Shape of a weight or constant, also behind a transposition of a matrix or a fake quantisation."""
        node = self.makers.get(name)
        if node is None:
            return self.shapes.get(name)
        if node.op in ("fused.FakeQuantize", "QuantizeLinear", "DequantizeLinear", "Identity"):
            return self.shape(node.inputs[0])
        shape = self.shape(node.inputs[0]) if node.op == "Transpose" else None
        if shape is not None and len(shape) == 2 and tuple(node.attributes.get("perm", (1, 0))) == (1, 0):
            return torch.Size((shape[1], shape[0]))
        return None

    def factors(self, name: str) -> tuple[float, list[str]]:
        """`name` as a product of a number and other values, through inner Mul and Div nodes."""
        number = self.number(name)
        if number is not None:
            return number, []
        node = self.inner(name, "Mul", "Div")
        if node is None:
            return 1.0, [name]
        left, rest = self.factors(node.inputs[0])
        if node.op == "Mul":
            right, more = self.factors(node.inputs[1])
            return left * right, rest + more
        divisor = self.number(node.inputs[1])
        return (1.0, [name]) if not divisor else (left / divisor, rest)

    def number(self, name: str) -> float | None:
        """A floating-point constant with one element, of rank 0 or 1."""
        known = self.nodes[0].constants.get(name)
        if known is None or known.numel() != 1 or known.dim() > 1 or not known.is_floating_point():
            return None
        return float(known.item())


Rule = Callable[[Node, _View], Node | None]


def _linear(node: Node, view: _View) -> Node | None:
    for product, bias in (node.inputs, node.inputs[::-1]):
        matmul = view.inner(product, "MatMul")
        shape = view.shape(bias)
        if matmul is None or shape is None or len(shape) != 1:
            continue
        matrix = view.shape(matmul.inputs[1])
        if matrix is not None and len(matrix) == 2 and matrix[1] == shape[0]:
            return _instead(node, "fused.Linear", (*matmul.inputs, bias))
    return None


def _gelu(node: Node, view: _View) -> Node | None:
    number, rest = _product(node, view)
    if len(rest) != 2 or not math.isclose(number, 0.5, rel_tol=1e-6):
        return None
    for x, other in (rest, rest[::-1]):
        add = view.inner(other, "Add")
        if add is None:
            continue
        for one, error in (add.inputs, add.inputs[::-1]):
            erf = view.inner(error, "Erf")
            if erf is None or view.number(one) != 1.0:
                continue
            scale, inside = view.factors(erf.inputs[0])
            if inside == [x] and math.isclose(scale, math.sqrt(0.5), rel_tol=1e-6):
                return _instead(node, "fused.Gelu", (x,))
    return None


def _product(node: Node, view: _View) -> tuple[float, list[str]]:
    """The factors of a Mul or Div node, whoever reads it."""
    left, rest = view.factors(node.inputs[0])
    if node.op == "Mul":
        right, more = view.factors(node.inputs[1])
        return left * right, rest + more
    divisor = view.number(node.inputs[1])
    return (left / divisor, rest) if divisor else (1.0, [])


def _attention(node: Node, view: _View) -> Node | None:
    softmax = view.inner(node.inputs[0], "Softmax")
    if softmax is None or softmax.attributes.get("axis", -1) != -1 or softmax.opset < 13:
        return None
    add = view.inner(softmax.inputs[0], "Add")
    sides = [(softmax.inputs[0], "")] if add is None else [add.inputs[:2], add.inputs[1::-1]]
    for scores, mask in sides:
        scale, rest = view.factors(scores)
        matmul = view.inner(rest[0], "MatMul") if len(rest) == 1 else None
        if matmul is None:
            continue
        (left, q), (right, k) = (view.factors(name) for name in matmul.inputs)
        if len(q) == 1 and len(k) == 1:
            inputs = (q[0], k[0], node.inputs[1], mask)
            return _instead(node, "fused.Attention", inputs, scale=scale * left * right)
    return None


def _layer_norm(node: Node, view: _View) -> Node | None:
    """Add(Mul(Div(d, Sqrt(Add(ReduceMean(d^2), epsilon))), scale), bias) with d = x - ReduceMean(x)."""
    for scaled, bias in (node.inputs, node.inputs[::-1]):
        mul = view.inner(scaled, "Mul")
        if mul is None:
            continue
        for normal, scale in (mul.inputs, mul.inputs[::-1]):
            div = view.inner(normal, "Div")
            shape = view.shape(scale)
            if div is None or shape is None or len(shape) != 1 or view.shape(bias) != shape:
                continue
            found = _standardised(div, view)
            if found is not None:
                x, epsilon = found
                return _instead(node, "fused.LayerNormalization", (x, scale, bias), epsilon=epsilon)
    return None


def _standardised(div: Node, view: _View) -> tuple[str, float] | None:
    """(x, epsilon) when `div` is (x - mean) / sqrt(variance + epsilon) over the last axis."""
    root = view.inner(div.inputs[1], "Sqrt")
    add = view.inner(root.inputs[0], "Add") if root is not None else None
    if add is None:
        return None
    for variance, small in (add.inputs, add.inputs[::-1]):
        mean = view.inner(variance, "ReduceMean")
        epsilon = view.number(small)
        square = view.inner(mean.inputs[0], "Pow", "Mul") if mean is not None else None
        if mean is None or square is None or epsilon is None or not _over_last_axis(mean):
            continue
        centred = div.inputs[0]
        if square.op == "Pow" and (square.inputs[0] != centred or view.number(square.inputs[1]) != 2.0):
            continue
        if square.op == "Mul" and square.inputs != (centred, centred):
            continue
        sub = view.inner(centred, "Sub", reads=2 if square.op == "Pow" else 3)
        average = view.inner(sub.inputs[1], "ReduceMean") if sub is not None else None
        if sub is None or average is None or average.inputs[0] != sub.inputs[0]:
            continue
        if _over_last_axis(average):
            return sub.inputs[0], epsilon
    return None


def _over_last_axis(mean: Node) -> bool:
    given = mean.constant(1)
    axes = list(mean.attributes.get("axes", ())) if given is None else given.tolist()
    return axes == [-1] and bool(mean.attributes.get("keepdims", 1))


def _fake_quantize(node: Node, view: _View) -> Node | None:
    quantize = view.inner(node.inputs[0], "QuantizeLinear")
    if quantize is None or quantize.inputs[1:] != node.inputs[1:] or node.attributes.get("output_dtype"):
        return None
    attributes = {
        name: quantize.attributes[name]
        for name in ("axis", "block_size", "output_dtype")
        if name in quantize.attributes
    }
    if any(
        node.attributes.get(name, default) != attributes.get(name, default)
        for name, default in (("axis", 1), ("block_size", 0))
    ):
        return None
    return _instead(node, "fused.FakeQuantize", quantize.inputs, **attributes)


def _instead(node: Node, name: str, inputs: tuple[str, ...], **attributes: float) -> Node:
    return replace(node, op=name, inputs=inputs, attributes=attributes)


RULES: dict[str, tuple[Rule, ...]] = {
    "Add": (_linear, _layer_norm),
    "DequantizeLinear": (_fake_quantize,),
    "Div": (_gelu,),
    "MatMul": (_attention,),
    "Mul": (_gelu,),
}
