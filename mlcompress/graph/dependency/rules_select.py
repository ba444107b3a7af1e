"""Ops that join axes or take parts of them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules import rewrite, rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.initializers import constant
from mlcompress.graph.operands import axis_of, operand, optional
from mlcompress.graph.shape_arguments import integers, slice_ranges


@rule("Concat")
def concat(node: ir.Node, trace: Trace) -> None:
    """Atoms are joined along the axis; the other axes go together."""
    values = [value for value in node.inputs if value is not None]
    all_axes = [trace.of(value) for value in values]
    rank = len(all_axes[0])
    along = axis_of(node.attributes.get_int("axis", 0), rank)
    result: list[Axis] = []
    for axis in range(rank):
        column = [axes[axis] for axes in all_axes]
        if axis == along:
            result.append(_joined(node, trace, column, [trace.sizes(value)[axis] for value in values]))
            continue
        for other in column[1:]:
            trace.atoms.unify(column[0], other)
        result.append(column[0])
    trace.set(node.outputs[0], result)


def _joined(node: ir.Node, trace: Trace, parts: Sequence[Axis], sizes: Sequence[object]) -> Axis:
    """Untracked parts of known length become elements that stay."""
    if all(atoms is None for atoms in parts):
        return None
    joined = []
    for atoms, size in zip(parts, sizes, strict=True):
        if atoms is not None:
            joined.append(atoms)
        elif isinstance(size, int):
            joined.append(np.full(size, -1, dtype=np.int64))
        else:
            trace.keep(node, parts, "joined with an axis of unknown length")
            return None
    return np.concatenate(joined)


@rule("Split")
def split(node: ir.Node, trace: Trace) -> None:
    """Each output carries its part of the atoms."""
    x = operand(node, 0)
    axes = trace.of(x)
    along = axis_of(node.attributes.get_int("axis", 0), len(axes))
    atoms = axes[along]
    sizes = _split_sizes(node, None if atoms is None else len(atoms))
    if atoms is not None and sizes is None:
        trace.keep(node, [atoms], "its sizes are computed at run time")
    start = 0
    for index, value in enumerate(node.outputs):
        part: Axis = None
        if atoms is not None and sizes is not None:
            part = atoms[start : start + sizes[index]]
            start += sizes[index]
        trace.set(value, [part if axis == along else other for axis, other in enumerate(axes)])


def _split_sizes(node: ir.Node, length: int | None) -> list[int] | None:
    attribute = node.attributes.get_ints("split", None)
    if attribute is not None:
        return list(attribute)
    if optional(node, 1) is not None:
        return integers(optional(node, 1))
    if length is None:
        return None
    chunk = -(-length // len(node.outputs))
    return [min(chunk, length - chunk * index) for index in range(len(node.outputs))]


@rewrite("Split")
def split_sizes(node: ir.Node, cut: Cut) -> None:
    """Explicit sizes, since equal parts may have become unequal."""
    along = axis_of(node.attributes.get_int("axis", 0), cut.rank(operand(node, 0)))
    live = cut.live(operand(node, 0), along)
    before = None if live is None else _split_sizes(node, len(live))
    if live is None or before is None:
        return
    sizes = [int(part.sum()) for part in np.split(live, np.cumsum(before)[:-1])]
    if "split" in node.attributes or cut.opset < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    cut.set_input(node, 1, np.array(sizes, dtype=np.int64))


@rule("Slice")
def slice_(node: ir.Node, trace: Trace) -> None:
    """With step 1, the output carries its part of the atoms. Other steps keep the axis."""
    axes = trace.of(operand(node, 0))
    ranges = slice_ranges(node)
    if ranges is None:
        trace.opaque(node, "its range is computed at run time")
        return
    result = list(axes)
    for number, start, stop, step in ranges:
        axis = axis_of(number, len(axes))
        atoms = axes[axis]
        if atoms is not None and step == 1:
            result[axis] = atoms[start:stop]
        else:
            trace.keep(node, [atoms], "takes every n-th element")
            result[axis] = None
    trace.set(node.outputs[0], result)


@rewrite("Slice")
def slice_range(node: ir.Node, cut: Cut) -> None:
    """Start and stop count the live elements before them."""
    x = operand(node, 0)
    attributes = "starts" in node.attributes
    ranges = slice_ranges(node) or []
    starts, stops = [start for _, start, _, _ in ranges], [stop for _, _, stop, _ in ranges]
    changed = False
    for place, (number, start, stop, _) in enumerate(ranges):
        live = cut.live(x, axis_of(number, cut.rank(x)))
        if live is not None:
            first, last, _ = slice(start, stop).indices(len(live))
            starts[place] = int(live[:first].sum())
            stops[place] = int(live[: max(first, last)].sum())
            changed = True
    if not changed:
        return
    if attributes:
        node.attributes["starts"] = ir.AttrInt64s("starts", starts)
        node.attributes["ends"] = ir.AttrInt64s("ends", stops)
        return
    for index, numbers in ((1, starts), (2, stops)):
        old = constant(operand(node, index))
        dtype = np.int64 if old is None else old.dtype
        cut.set_input(node, index, np.array(numbers, dtype=dtype))


@rule("Gather")
def gather(node: ir.Node, trace: Trace) -> None:
    """Constant indices pick atoms; run-time indices (an embedding) keep the axis. Other axes pass."""
    data, indices = operand(node, 0), operand(node, 1)
    axes = trace.of(data)
    axis = axis_of(node.attributes.get_int("axis", 0), len(axes))
    atoms, picked = axes[axis], constant(indices)
    middle: list[Axis] = [None] * (trace.rank(indices) or 0)
    if atoms is not None and picked is not None and picked.ndim == 1:
        middle = [atoms[picked]]
    elif atoms is not None and picked is not None:
        trace.keep(node, [atoms[picked].reshape(-1)], "takes single elements of this axis")
    else:
        trace.keep(node, [atoms], "looks up elements of this axis at run time")
        if picked is None:
            middle = trace.of(indices)
    for other in range(axis + 1, len(axes)):
        trace.makes(node, data, other)
    trace.set(node.outputs[0], axes[:axis] + middle + axes[axis + 1 :])


@rewrite("Gather")
def gather_indices(node: ir.Node, cut: Cut) -> None:
    """Indices of live elements, at their new places."""
    data = operand(node, 0)
    axis = axis_of(node.attributes.get_int("axis", 0), cut.rank(data))
    live = cut.live(data, axis)
    old = constant(operand(node, 1))
    if live is None or old is None:
        return
    places = (np.cumsum(live) - 1)[old]
    new = places[live[old]] if old.ndim == 1 else places
    cut.set_input(node, 1, np.asarray(new, dtype=old.dtype))
