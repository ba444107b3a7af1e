"""Ops that move, add or repeat axes."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules import rewrite, rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.operands import axis_of, operand, optional
from mlcompress.graph.shape_arguments import Size, elements, integers, slice_ranges


@rule("Transpose")
def transpose(node: ir.Node, trace: Trace) -> None:
    """Axes are permuted; reversed by default."""
    axes = trace.of(operand(node, 0))
    order = node.attributes.get_ints("perm", None) or range(len(axes) - 1, -1, -1)
    trace.set(node.outputs[0], [axes[axis] for axis in order])


def named_axes(node: ir.Node) -> list[int] | None:
    """`axes` as an attribute (before opset 13) or a constant input; None when absent or computed."""
    attribute = node.attributes.get_ints("axes", None)
    return list(attribute) if attribute is not None else integers(optional(node, 1))


@rule("Squeeze")
def squeeze(node: ir.Node, trace: Trace) -> None:
    """Axes of length 1 go. Without `axes` a pruned axis of length 1 could go too, so everything stays."""
    axes = trace.of(operand(node, 0))
    gone = named_axes(node)
    if gone is None:
        trace.opaque(node, "its axes are not constant")
        return
    gone = [axis_of(axis, len(axes)) for axis in gone]
    trace.set(node.outputs[0], [atoms for axis, atoms in enumerate(axes) if axis not in gone])


@rule("Unsqueeze")
def unsqueeze(node: ir.Node, trace: Trace) -> None:
    """Axes of length 1 are added."""
    axes = trace.of(operand(node, 0))
    added = named_axes(node)
    if added is None:
        trace.opaque(node, "its axes are computed at run time")
        return
    rank = len(axes) + len(added)
    places = {axis_of(axis, rank) for axis in added}
    rest = iter(axes)
    trace.set(node.outputs[0], [None if axis in places else next(rest) for axis in range(rank)])


@rule("Expand")
def expand(node: ir.Node, trace: Trace) -> None:
    """Axes pass; an axis of length 1 that grows to a constant length can have any length (virtual atoms)."""
    x = operand(node, 0)
    target = elements(operand(node, 1))
    if target is None:
        trace.opaque(node, "its shape is computed at run time")
        return
    rank = max(len(target), trace.rank(x) or 0)
    ahead = rank - len(trace.of(x))
    axes: list[Axis] = [*[None] * ahead, *trace.of(x)]
    sizes: list[Size] = [*[1] * ahead, *trace.sizes(x)]
    wanted: list[int | None] = [*[1] * (rank - len(target)), *target]
    result: list[Axis] = []
    for axis, size, length in zip(axes, sizes, wanted, strict=True):
        if axis is None:
            grows = size == 1 and length is not None and length > 1
            result.append(trace.atoms.fresh(length or 0, virtual=True) if grows else None)
        elif length is None:
            trace.keep(node, [axis], "its shape is computed at run time")
            result.append(None)
        else:
            result.append(axis)
    trace.set(node.outputs[0], result)


@rule("ConstantOfShape")
def constant_of_shape(node: ir.Node, trace: Trace) -> None:
    """All elements are equal, so axes of constant length can have any length (virtual atoms)."""
    target = elements(operand(node, 0))
    if target is None:
        trace.opaque(node, "its shape is computed at run time")
        return
    trace.set(node.outputs[0], [trace.atoms.fresh(length or 0, virtual=True) for length in target])


@rewrite("Reshape", "Expand", "ConstantOfShape")
def target_shape(node: ir.Node, cut: Cut) -> None:
    """Positive entries of the target, which that of Expand aligns at its end; 0 and -1 follow by
    themselves."""
    out, place = node.outputs[0], 0 if node.op_type == "ConstantOfShape" else 1
    offset = cut.rank(out) - _vector_length(operand(node, place)) if node.op_type == "Expand" else 0
    lengths = {axis - offset: cut.length(out, axis) for axis in range(cut.rank(out))}
    cut.set_elements(node, place, lengths)


def _vector_length(value: ir.Value) -> int:
    size = value.shape[0] if value.shape is not None and len(value.shape) == 1 else 0
    return size if isinstance(size, int) else 0


@rule("Tile")
def tile(node: ir.Node, trace: Trace) -> None:
    """Repeated elements carry the same atoms."""
    axes = trace.of(operand(node, 0))
    repeats = integers(operand(node, 1))
    if repeats is None:
        trace.opaque(node, "its repeats are computed at run time")
        return
    trace.set(
        node.outputs[0],
        [
            None if atoms is None else np.tile(atoms, count)
            for atoms, count in zip(axes, repeats, strict=True)
        ],
    )


@rule("Shape")
def shape(node: ir.Node, trace: Trace) -> None:
    """Lengths that somebody reads as numbers must stay; readers that pick other entries do no harm."""
    axes = trace.of(operand(node, 0))
    rank = len(axes)
    start = axis_of(node.attributes.get_int("start", 0), rank)
    stop = axis_of(node.attributes.get_int("end", rank), rank)
    entries = list(range(rank))[start:stop]
    read = _read(node.outputs[0], entries)
    trace.keep(node, [axes[axis] for axis in sorted(read)], "its length is read as a number")
    trace.set(node.outputs[0], [None])


def _read(vector: ir.Value, entries: list[int]) -> set[int]:
    """Which entries of a shape vector are read by later nodes; all, where one of them may read any."""
    read = set(entries if vector.is_graph_output() else ())
    for reader, _ in vector.uses():
        if reader.op_type == "Cast":
            read |= _read(reader.outputs[0], entries)
        else:
            picked = _picked(reader, entries)
            read |= set(entries if picked is None else picked)
    return read


def _picked(reader: ir.Node, entries: list[int]) -> list[int] | None:
    """Which entries of a shape vector a node picks; None when it may read all."""
    if reader.op_type == "Gather":
        indices = integers(optional(reader, 1))
        return None if indices is None else [entries[index] for index in indices]
    if reader.op_type == "Slice":
        ranges = slice_ranges(reader)
        return None if ranges is None or len(ranges) != 1 else entries[slice(*ranges[0][1:])]
    return None
