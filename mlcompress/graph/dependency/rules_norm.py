"""Normalisation, reductions and other ops that work along whole axes."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules import rewrite, rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.operands import axis_of, operand, optional
from mlcompress.graph.shape_arguments import integers

ALONG = "works along this axis"
STATISTICS = "normalisation statistics change"


@rule("BatchNormalization")
def batch_norm(node: ir.Node, trace: Trace) -> None:
    """Scale, bias, mean and variance go with axis 1; every channel is its own, so this is exact."""
    axes = trace.of(operand(node, 0))
    for index in range(1, 5):
        trace.atoms.unify(axes[1], trace.of(operand(node, index))[0])
    trace.set(node.outputs[0], axes)
    for value in node.outputs[1:]:
        trace.set(value, [axes[1]])


@rule("InstanceNormalization")
def instance_norm(node: ir.Node, trace: Trace) -> None:
    """Scale and bias go with axis 1; statistics are over the spatial axes of one channel: exact."""
    axes = trace.of(operand(node, 0))
    for index in (1, 2):
        trace.atoms.unify(axes[1], trace.of(operand(node, index))[0])
    trace.keep(node, axes[2:], ALONG)
    trace.set(node.outputs[0], [*axes[:2], *[None] * (len(axes) - 2)])


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(node: ir.Node, trace: Trace) -> None:
    """Scale and bias go with the normalised axes; the statistics change, so they are soft."""
    x, scale, bias = operand(node, 0), operand(node, 1), optional(node, 2)
    axes = trace.of(x)
    first = axis_of(node.attributes.get_int("axis", -1), len(axes))
    given = [(axes, trace.sizes(x))] + [(trace.of(v), trace.sizes(v)) for v in (scale, bias) if v is not None]
    result = trace.broadcast(given)
    for axis in axes[first:]:
        trace.atoms.soften(axis, f"{node.op_type}: {STATISTICS}")
    if first != len(axes) - 1 or any(value.uses() for value in node.outputs[1:]):
        trace.keep(node, axes[first:], ALONG)
    trace.set(node.outputs[0], result)
    for value in node.outputs[1:]:
        trace.set(value, [*axes[:first], *[None] * (len(axes) - first)])


@rule("GroupNormalization")
def group_norm(node: ir.Node, trace: Trace) -> None:
    """A group goes as a whole, which is exact. One group: single channels, soft.

    Scale and bias are per channel since opset 21, per group before.
    """
    axes = trace.of(operand(node, 0))
    groups = node.attributes.get_int("num_groups", 1)
    channels = axes[1]
    if channels is not None and groups > 1:
        trace.atoms.unify_rows(channels.reshape(groups, -1))
    else:
        trace.atoms.soften(channels, f"{node.op_type}: {STATISTICS}")
        trace.keep(node, [channels], ALONG)
    for index in (1, 2):
        parameter = trace.of(operand(node, index))[0]
        if trace.opset >= 21 or channels is None:
            trace.atoms.unify(channels, parameter)
        elif parameter is not None:
            trace.atoms.unify(channels.reshape(groups, -1)[:, 0].copy(), parameter)
    trace.keep(node, axes[2:], ALONG)
    trace.set(node.outputs[0], [*axes[:2], *[None] * (len(axes) - 2)])


@rewrite("GroupNormalization")
def fewer_groups(node: ir.Node, cut: Cut) -> None:
    """Groups that are left; each keeps its width."""
    live = cut.live(operand(node, 0), 1)
    groups = node.attributes.get_int("num_groups", 1)
    if live is not None:
        left = int(np.count_nonzero(live.reshape(groups, -1)[:, 0]))
        node.attributes["num_groups"] = ir.AttrInt64("num_groups", left)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: ir.Node, trace: Trace) -> None:
    """The axis stays. Before opset 13 all axes from `axis` on are one."""
    axes = trace.of(operand(node, 0))
    first = axis_of(node.attributes.get_int("axis", -1 if trace.opset >= 13 else 1), len(axes))
    along = [first] if trace.opset >= 13 else list(range(first, len(axes)))
    _along(node, trace, axes, along)


@rule("LpNormalization")
def lp_norm(node: ir.Node, trace: Trace) -> None:
    """The axis stays."""
    axes = trace.of(operand(node, 0))
    _along(node, trace, axes, [axis_of(node.attributes.get_int("axis", -1), len(axes))])


@rule("LRN")
def local_response(node: ir.Node, trace: Trace) -> None:
    """Channels stay: neighbours are mixed."""
    _along(node, trace, trace.of(operand(node, 0)), [1])


@rule("CumSum")
def running_sum(node: ir.Node, trace: Trace) -> None:
    """The axis stays."""
    axes = trace.of(operand(node, 0))
    along = integers(operand(node, 1))
    _along(node, trace, axes, list(range(len(axes))) if along is None else [axis_of(along[0], len(axes))])


@rule("Trilu")
def triangle(node: ir.Node, trace: Trace) -> None:
    """The last two axes stay."""
    axes = trace.of(operand(node, 0))
    _along(node, trace, axes, [len(axes) - 2, len(axes) - 1])


@rule("TopK")
def top_k(node: ir.Node, trace: Trace) -> None:
    """The axis stays."""
    axes = trace.of(operand(node, 0))
    _along(node, trace, axes, [axis_of(node.attributes.get_int("axis", -1), len(axes))])


def _along(node: ir.Node, trace: Trace, axes: list[Axis], along: list[int]) -> None:
    trace.keep(node, [axes[axis] for axis in along], ALONG)
    result = [None if axis in along else atoms for axis, atoms in enumerate(axes)]
    for value in node.outputs:
        trace.set(value, result)


REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@rule(*(f"Reduce{how}" for how in REDUCTIONS))
def reduce(node: ir.Node, trace: Trace) -> None:
    """Reduced axes stay, the others pass. The mean and the variance of a normalisation that is spelt out (by
    exporters below opset 17) are soft like the op."""
    axes = trace.of(operand(node, 0))
    chosen = reduced(node, len(axes))
    if chosen is None:
        trace.opaque(node, "its axes are computed at run time")
        return
    if len(chosen) == 1 and is_statistic(node):
        (axis,) = chosen
        trace.atoms.soften(axes[axis], f"{node.op_type}: {STATISTICS}")
        axes = [None if place == axis else atoms for place, atoms in enumerate(axes)]
    _collapse(node, trace, axes, chosen)


def reduced(node: ir.Node, rank: int) -> set[int] | None:
    """The axes that a reduction of a value with `rank` axes takes away; None: computed at run time."""
    attribute = node.attributes.get_ints("axes", None)
    argument = optional(node, 1)
    if attribute is None and argument is not None:
        attribute = integers(argument)
        if attribute is None:
            return None
    chosen = {axis_of(axis, rank) for axis in attribute or ()}
    if not chosen and not node.attributes.get_int("noop_with_empty_axes", 0):
        chosen = set(range(rank))
    return chosen


def is_statistic(node: ir.Node) -> bool:
    """Is this the mean m of x - m, or the mean square v of sqrt(v + epsilon), of a normalisation?"""
    if node.op_type != "ReduceMean":
        return False
    readers = _readers([node])
    centred = [reader for reader in readers if reader.op_type == "Sub" and reader.inputs[0] is node.inputs[0]]
    squared = [reader for reader in _readers(centred) if reader.op_type in ("Pow", "Mul")]
    means = [node, *(reader for reader in _readers(squared) if reader.op_type == "ReduceMean")]
    roots = _readers([reader for reader in _readers(means) if reader.op_type == "Add"])
    return any(root.op_type in ("Sqrt", "Pow") for root in roots)


def _readers(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    return [reader for node in nodes for value in node.outputs for reader, _ in value.uses()]


@rule("ArgMax", "ArgMin")
def arg_extreme(node: ir.Node, trace: Trace) -> None:
    """The axis stays, the others pass."""
    axes = trace.of(operand(node, 0))
    _collapse(node, trace, axes, {axis_of(node.attributes.get_int("axis", 0), len(axes))})


def _collapse(node: ir.Node, trace: Trace, axes: list[Axis], chosen: set[int]) -> None:
    trace.keep(node, [axes[axis] for axis in sorted(chosen)], ALONG)
    keep = node.attributes.get_int("keepdims", 1)
    left = [
        None if axis in chosen else atoms for axis, atoms in enumerate(axes) if keep or axis not in chosen
    ]
    trace.set(node.outputs[0], left)
