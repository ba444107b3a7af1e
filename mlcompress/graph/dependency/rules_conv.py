"""Convolutions, pooling and spatial resampling (N, C, spatial...)."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules import rewrite, rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.initializers import constant
from mlcompress.graph.operands import axis_of, operand, optional
from mlcompress.graph.shape_arguments import elements, integers

MIXES = "mixes the elements of this axis"


@rule("Conv")
def conv(node: ir.Node, trace: Trace) -> None:
    """Y.ax1 = W.ax0, sum over X.ax1 and W.ax1 [O, I/g, k...].

    With groups, equal offsets go together over all groups, so each group loses the same number. One input
    channel per group (depthwise, with or without multiplier): a group goes as a whole. One group is never
    depthwise.
    """
    x, weight = operand(node, 0), operand(node, 1)
    groups = node.attributes.get_int("group", 1)
    source, kernel = trace.of(x)[1], trace.of(weight)
    if groups > 1 and trace.sizes(weight)[1] == 1:
        _tie_groups(trace, source, kernel[0], groups)
    else:
        trace.atoms.unify(_tie_offsets(trace, source, groups), kernel[1])
        _tie_offsets(trace, kernel[0], groups)
        trace.reads(node, weight, 1, x, 1)
    trace.makes(node, weight, 0)
    _finish(node, trace, kernel[0])


@rule("ConvTranspose")
def conv_transpose(node: ir.Node, trace: Trace) -> None:
    """Y.ax1 = W.ax1 in each group, sum over X.ax1 and W.ax0 [I, O/g, k...]; groups as for Conv."""
    x, weight = operand(node, 0), operand(node, 1)
    groups = node.attributes.get_int("group", 1)
    source, kernel, sizes = trace.of(x)[1], trace.of(weight), trace.sizes(weight)
    trace.atoms.unify(source, kernel[0])
    if groups > 1 and sizes[0] == groups and isinstance(sizes[1], int):
        trace.atoms.freeze(kernel[1])
        trace.makes(node, weight, 0)
        _finish(node, trace, None if kernel[0] is None else np.repeat(kernel[0], sizes[1]))
        return
    _tie_offsets(trace, kernel[0], groups)
    trace.reads(node, weight, 0, x, 1)
    trace.makes(node, weight, 1)
    _finish(node, trace, None if kernel[1] is None else np.tile(kernel[1], groups))


def _tie_offsets(trace: Trace, axis: Axis, groups: int) -> Axis:
    """Tie element j of every group; the atoms of the first group."""
    if axis is None or groups == 1:
        return axis
    return trace.atoms.unify_rows(axis.reshape(groups, -1).T)


def _tie_groups(trace: Trace, source: Axis, made: Axis, groups: int) -> None:
    """Tie the one input channel of a group and all its outputs."""
    if source is None or made is None:
        trace.atoms.unify(source, made)
    else:
        trace.atoms.unify_rows(np.concatenate([source[:, None], made.reshape(groups, -1)], axis=1))


def _finish(node: ir.Node, trace: Trace, made: Axis) -> None:
    source, kernel, bias = trace.of(operand(node, 0)), trace.of(operand(node, 1)), optional(node, 2)
    if bias is not None:
        trace.atoms.unify(made, trace.of(bias)[0])
    trace.keep(node, source[2:], MIXES)
    for axis in kernel[2:]:
        trace.atoms.freeze(axis)
    trace.set(node.outputs[0], [source[0], made, *[None] * (len(source) - 2)])


@rewrite("Conv", "ConvTranspose")
def regroup(node: ir.Node, cut: Cut) -> None:
    """Where a group is one input channel, as many groups as channels are left; else their number stays."""
    groups = node.attributes.get_int("group", 1)
    live = cut.live(operand(node, 0), 1)
    if groups > 1 and live is not None and len(live) == groups:
        node.attributes["group"] = ir.AttrInt64("group", int(live.sum()))


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(node: ir.Node, trace: Trace) -> None:
    """Channels pass. MaxPool's indices count over channels, so a graph that reads them keeps all."""
    axes = trace.of(operand(node, 0))
    if len(node.outputs) > 1 and node.outputs[1].uses():
        trace.keep(node, axes, "its indices count over the channels")
    trace.keep(node, axes[2:], MIXES)
    for value in node.outputs:
        trace.set(value, [*axes[:2], *[None] * (len(axes) - 2)])


@rule("Resize", "Upsample")
def resize(node: ir.Node, trace: Trace) -> None:
    """Axes that keep their length pass."""
    x = operand(node, 0)
    axes, sizes = trace.of(x), trace.sizes(x)
    new = elements(_resize_sizes(node))
    scales = _resize_scales(node)
    subset = node.attributes.get_ints("axes", None)
    touched = range(len(axes)) if subset is None else [axis_of(axis, len(axes)) for axis in subset]
    result = list(axes)
    for place, axis in enumerate(touched):
        by_size = new is not None and place < len(new) and new[place] == sizes[axis]
        by_scale = scales is not None and place < len(scales) and scales[place] == 1
        if not (by_size or by_scale):
            trace.keep(node, [axes[axis]], MIXES)
            result[axis] = None
    trace.set(node.outputs[0], result)


def _resize_sizes(node: ir.Node) -> ir.Value | None:
    return optional(node, 3) if node.op_type == "Resize" else None


def _resize_scales(node: ir.Node) -> list[float] | None:
    if node.op_type == "Upsample" and "scales" in node.attributes:
        return list(node.attributes["scales"].as_floats())
    last = 2 if len(node.inputs) > 2 else 1
    numbers = constant(optional(node, last))
    return None if numbers is None else [float(number) for number in numbers.reshape(-1)]


@rewrite("Resize")
def resize_sizes(node: ir.Node, cut: Cut) -> None:
    """The channel entry of `sizes`."""
    if _resize_sizes(node) is None:
        return
    rank = cut.rank(node.outputs[0])
    subset = node.attributes.get_ints("axes", None)
    touched = range(rank) if subset is None else [axis_of(axis, rank) for axis in subset]
    changes = {place: cut.length(node.outputs[0], axis) for place, axis in enumerate(touched)}
    cut.set_elements(node, 3, changes)


@rule("Pad")
def pad(node: ir.Node, trace: Trace) -> None:
    """Axes that are not padded pass."""
    axes = trace.of(operand(node, 0))
    attribute = node.attributes.get_ints("pads", None)
    amounts = list(attribute) if attribute is not None else integers(optional(node, 1))
    subset = integers(optional(node, 3)) if optional(node, 3) is not None else list(range(len(axes)))
    if amounts is None or subset is None:
        trace.opaque(node, "its pads are computed at run time")
        return
    result = list(axes)
    for place, number in enumerate(subset):
        if amounts[place] or amounts[place + len(subset)]:
            axis = axis_of(number, len(axes))
            trace.keep(node, [axes[axis]], "pads this axis")
            result[axis] = None
    trace.set(node.outputs[0], result)


@rule("DepthToSpace")
def depth_to_space(node: ir.Node, trace: Trace) -> None:
    """Input channel (b, b, c) in DCR mode, (c, b, b) in CRD mode -> output channel c: b*b go together."""
    axes = trace.of(operand(node, 0))
    blocks = node.attributes.get_int("blocksize", 1) ** 2
    made = axes[1]
    if made is not None:
        crd = node.attributes.get_string("mode", "DCR") == "CRD"
        made = trace.atoms.unify_rows(made.reshape(-1, blocks) if crd else made.reshape(blocks, -1).T)
    trace.keep(node, axes[2:], MIXES)
    trace.set(node.outputs[0], [axes[0], made, None, None])


@rule("SpaceToDepth")
def space_to_depth(node: ir.Node, trace: Trace) -> None:
    """Input channel c -> output channels (b, b, c)."""
    axes = trace.of(operand(node, 0))
    blocks = node.attributes.get_int("blocksize", 1) ** 2
    trace.keep(node, axes[2:], MIXES)
    trace.set(node.outputs[0], [axes[0], None if axes[1] is None else np.tile(axes[1], blocks), None, None])
