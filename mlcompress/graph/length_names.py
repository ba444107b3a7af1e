"""Names for lengths that follow from those of the inputs, although ONNX's inference gives them others."""

from collections.abc import Sequence

import onnx_ir as ir

from mlcompress.graph.lengths import Vectors, declared, evaluate
from mlcompress.graph.operands import axis_of, optional
from mlcompress.graph.shape_arguments import Size, quotient, slice_ranges

BROADCAST = frozenset(
    """Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu Sub Sum
    Where Xor""".split()  # noqa: SIM905
)

_END = 2**31 - 1
"""Where exporters end a slice that has no end."""


def name_lengths(model: ir.Model) -> None:
    """Give axes the name of an input's axis ("batch"), or of a multiple of it ("4*batch"), where they have
    that length for sure, in place: targets of Reshape and Expand say so, and operands of elementwise ops.

    An inferred name is the same all over the graph: one finding renames it everywhere.
    """
    names = {size for value in model.graph.inputs for size in declared(value) or () if isinstance(size, str)}
    while True:
        vectors = evaluate(model.graph)
        renamed: dict[str, str] = {}
        for node in model.graph:
            if not node.outputs or node.outputs[0].is_graph_output():
                continue  # declares what it likes, for good
            found, now = _lengths(node, vectors), declared(node.outputs[0])
            for size, known in zip(now or (), found or (), strict=False):
                if not isinstance(size, str) or not isinstance(known, str):
                    continue
                if not _is_of(size, names) and _is_of(known, names):
                    renamed[size] = known
        if not renamed:
            return
        for value in (value for node in model.graph for value in node.outputs if not value.is_graph_output()):
            sizes = declared(value)
            if sizes is not None:
                value.shape = ir.Shape([renamed.get(s, s) if isinstance(s, str) else s for s in sizes])


def _is_of(size: str, names: set[str]) -> bool:
    return size.rpartition("*")[2] in names or size in names


def _lengths(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    """Lengths of the axes of a node's first output, as far as they follow from its inputs'."""
    if node.domain != "":
        return None
    if node.op_type in BROADCAST:
        return _broadcast([declared(value) for value in node.inputs if value is not None])
    if node.op_type == "MatMul":
        return _product(declared(optional(node, 0)), declared(optional(node, 1)))
    if node.op_type == "Slice":
        return _sliced(declared(optional(node, 0)), slice_ranges(node))
    if node.op_type == "Range":
        start, limit, step = (
            vectors.get(value.name or "") if value is not None else None for value in node.inputs
        )
        return limit if start == [0] and step == [1] else None
    place = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}.get(node.op_type)
    argument = None if place is None else optional(node, place)
    target = None if argument is None else vectors.get(argument.name or "")
    before = declared(optional(node, 0))
    if target is None or node.op_type == "ConstantOfShape":
        return target
    if node.op_type == "Expand":
        return _broadcast([before, target])
    return _reshaped(before, target)


def _sliced(
    before: Sequence[Size] | None, ranges: Sequence[tuple[int, int, int, int]] | None
) -> list[Size] | None:
    """A slice from 0 to the end of everything keeps the length."""
    if before is None or ranges is None:
        return None
    whole = [start == 0 and stop >= _END and step == 1 for _, start, stop, step in ranges]
    cut = {axis_of(axis, len(before)) for (axis, *_), kept in zip(ranges, whole, strict=True) if not kept}
    return [None if axis in cut else size for axis, size in enumerate(before)]


def _reshaped(before: Sequence[Size] | None, target: Sequence[Size]) -> list[Size] | None:
    if before is None:
        return None
    copied = [before[a] if size == 0 and a < len(before) else size for a, size in enumerate(target)]
    others = [size for size in copied if size != -1]
    return [quotient(before, others) if size == -1 else size for size in copied]


def _broadcast(shapes: Sequence[Sequence[Size] | None]) -> list[Size] | None:
    """Aligned at the end; an axis has a length where all that are not 1 agree."""
    if None in shapes or not shapes:
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max(len(shape) for shape in known)
    padded = [[*[1] * (rank - len(shape)), *shape] for shape in known]
    columns = [{size for size in column if size != 1} for column in zip(*padded, strict=True)]
    return [next(iter(column)) if len(column) == 1 else 1 if not column else None for column in columns]


def _product(left: Sequence[Size] | None, right: Sequence[Size] | None) -> list[Size] | None:
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    lead = _broadcast([left[:-2], right[:-2]])
    return None if lead is None else [*lead, left[-2], right[-1]]
