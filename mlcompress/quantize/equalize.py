"""Cross-layer equalisation: channels that one Conv makes and the next reads get ranges that fit one scale."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import attribute
from mlcompress.quantize.integer import in_domain, obstacle

PASSING = ("Relu", "LeakyRelu", "PRelu")
"""f(x / s) = f(x) / s for s > 0, channel by channel."""
ROUNDS = 20
"""Sweeps over all pairs; ranges in a chain settle in fewer."""
SETTLED = 1e-3
"""Largest |log s| at which nothing is left to do."""


@dataclass(frozen=True)
class _Pair:
    first: ir.Node
    second: ir.Node


def equalize(model: ir.Model, kept: Collection[str]) -> tuple[list[list[str]], dict[str, str]]:
    """W1_i / s_i, b1_i / s_i, W2_i s_i with s_i = sqrt(r1_i / r2_i): both get the range sqrt(r1_i r2_i)
    (Nagel et al. 2019).

    r1_i, r2_i: max|w| of output channel i of the first Conv and of input channel i of the second. In
    place, over all Conv - Conv pairs, depthwise ones included, directly or through Relu, LeakyRelu or
    PRelu, where nothing else reads what is between; exact in float but for rounding. A Clip between them
    (Relu6) would clip elsewhere, so such pairs are left alone, and so are nodes of `kept`.

    Returns the names of each pair, and the first node of each pair left alone: why.
    """
    pairs, left = _pairs(model.graph, kept)
    insertion = Insertion(model.graph)
    for _ in range(ROUNDS):
        moved = [_balance(insertion, pair) for pair in pairs]
        if max(moved, default=0.0) < SETTLED:
            break
    insertion.drop_unread()
    return [[str(pair.first.name), str(pair.second.name)] for pair in pairs], left


def _pairs(main: ir.Graph, kept: Collection[str]) -> tuple[list[_Pair], dict[str, str]]:
    found, left = [], dict[str, str]()
    for node in main:
        if not _usable(node, kept):
            continue
        reader = _only_reader(node)
        if reader is not None and in_domain(reader, PASSING) and _follows(reader, node):
            reader = _only_reader(reader)
        if reader is not None and in_domain(reader, ("Clip",)):
            after = _only_reader(reader)
            if after is not None and _usable(after, kept):
                left[str(node.name)] = "a Clip follows: scaled channels would be clipped elsewhere"
        elif reader is not None and _usable(reader, kept):
            found.append(_Pair(node, reader))
    return found, left


def _usable(node: ir.Node, kept: Collection[str]) -> bool:
    return (
        in_domain(node, ("Conv",))
        and node.name not in kept
        and obstacle(node) is None
        and all(len(value.uses()) == 1 for value in node.inputs[1:3] if value is not None)
    )


def _only_reader(node: ir.Node) -> ir.Node | None:
    output = node.outputs[0]
    users = [use.node for use in output.uses()]
    lone = len(users) == 1 and not output.is_graph_output() and users[0].graph is node.graph
    return users[0] if lone and users[0].inputs[0] is output else None


def _follows(activation: ir.Node, conv: ir.Node) -> bool:
    """PRelu's slope must be constant: one that is computed may depend on the values."""
    return activation.op_type != "PRelu" or constant(activation.inputs[1]) is not None


def _balance(insertion: Insertion, pair: _Pair) -> float:
    """Scale one pair; the largest |log s|."""
    one = np.asarray(constant(pair.first.inputs[1]), np.float64)
    two = np.asarray(constant(pair.second.inputs[1]), np.float64)
    groups = int(attribute(pair.second, "group", 1))
    grouped = two.reshape(groups, two.shape[0] // groups, two.shape[1], -1)
    ranges = np.abs(one).reshape(len(one), -1).max(axis=1), np.abs(grouped).max(axis=(1, 3)).ravel()
    usable = (ranges[0] > 0) & (ranges[1] > 0)
    scale = np.where(usable, np.sqrt(np.where(usable, ranges[0], 1) / np.where(usable, ranges[1], 1)), 1.0)
    column = scale.reshape(-1, *[1] * (one.ndim - 1))
    wide = scale.reshape(groups, 1, two.shape[1], 1)
    _set(insertion, pair.first, 1, one / column)
    _set(insertion, pair.second, 1, (grouped * wide).reshape(two.shape))
    if len(pair.first.inputs) > 2 and pair.first.inputs[2] is not None:
        bias = np.asarray(constant(pair.first.inputs[2]), np.float64)
        _set(insertion, pair.first, 2, np.broadcast_to(bias, scale.shape) / scale)
    return float(np.abs(np.log(scale)).max(initial=0.0))


def _set(insertion: Insertion, node: ir.Node, index: int, array: np.ndarray) -> None:
    insertion.set_input(
        node, index, array.astype(np.float32), f"{node.name}.{'weight' if index == 1 else 'bias'}"
    )
