"""Which constants of a graph are weights, to be trained."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from mlcompress.train.ops.node import Node

WEIGHTS: dict[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Concat": tuple(range(16)),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Einsum": tuple(range(16)),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GRU": (1, 2, 3),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
"""Inputs, by position, at which a floating-point constant is a weight."""

PASSING = {
    "Cast", "CastLike", "DequantizeLinear", "Expand", "Flatten", "Identity", "QuantizeLinear", "Reshape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Ops through whose first input a weight may pass on its way."""

DEEPEST = 6
"""How many such ops may lie between; the gates of a recurrent layer are cut, joined and stacked."""

MASK = 1e4
"""An added constant with an element this large is an attention mask, not a bias."""


def weights(nodes: Collection[Node], constants: Mapping[str, Tensor]) -> set[str]:
    """Floating-point constants that reach a weight slot, directly or through ops that only move elements.

    `nodes` in order, those of bodies included. Left out: single numbers that are added or multiplied (an
    epsilon, a factor), masks, and joined filler.
    """
    readers: defaultdict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in nodes:
        for index, name in enumerate(node.inputs):
            readers[name].append((node, index))
    same = _same(nodes)
    fixed = _fixed(nodes, constants)

    def reaches(name: str, tensor: Tensor, depth: int) -> bool:
        for node, index in readers[name]:
            if index in WEIGHTS.get(node.op, ()) and _is_weight(node.op, tensor):
                return True
            if depth < DEEPEST and _passes(node, index, fixed):
                outputs = (output for output in node.outputs if output)
                if any(reaches(output, tensor, depth + 1) for output in outputs):
                    return True
        return any(reaches(other, tensor, depth) for other in same[name])

    return {
        name for name, tensor in constants.items() if tensor.is_floating_point() and reaches(name, tensor, 0)
    }


def _same(nodes: Iterable[Node]) -> defaultdict[str, list[str]]:
    """Values that go by another name elsewhere: what a branch of If gives outside, what Scan cuts inside."""
    same: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for body in node.bodies.values():
            pairs: Iterable[tuple[str, str]] = ()
            if node.op == "If":
                pairs = zip(body.outputs, node.outputs, strict=False)
            if node.op == "Scan":
                cut = int(node.attributes.get("num_scan_inputs", 0))
                pairs = zip(node.inputs[-cut:], body.inputs[-cut:], strict=False)
            for name, other in pairs:
                same[name] += [other] if other else []
    return same


def _fixed(nodes: Iterable[Node], constants: Mapping[str, Tensor]) -> set[str]:
    """Values that do not depend on an input."""
    fixed = {"", *constants}
    for node in nodes:
        if not node.bodies and fixed.issuperset(node.inputs):
            fixed.update(node.outputs)
    return fixed


def _passes(node: Node, index: int, fixed: Collection[str]) -> bool:
    """A Concat passes parts of a weight on; what is joined to data is no part of a weight."""
    if node.op == "Concat":
        return all(name in fixed for name in node.inputs)
    return index == 0 and node.op in PASSING


def _is_weight(op: str, tensor: Tensor) -> bool:
    if op in ("Add", "Mul"):
        return tensor.numel() > 1 and bool((tensor.abs() < MASK).all())
    if op == "Concat":
        return tensor.numel() > 1 and bool((tensor != tensor.reshape(-1)[0]).any())
    return tensor.dim() > 1 if op == "Gather" else True
