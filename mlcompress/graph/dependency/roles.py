"""What later nodes do with the factors of a split axis; decides which factor is a unit that can go."""

from collections.abc import Sequence
from enum import Enum, auto

import onnx_ir as ir

from mlcompress.graph.dependency.rules_axes import named_axes
from mlcompress.graph.operands import axis_of
from mlcompress.graph.shape_arguments import slice_ranges

FAR = 8
"""Nodes to look ahead; attention needs five."""


class Role(Enum):
    """A use of one axis."""

    SELECTED = auto()
    """Its elements are taken apart (Gather, Split, Slice): query, key and value."""
    ALONG = auto()
    """Softmax, a norm or a reduction works along it."""
    SUMMED = auto()
    """Contracted between two activations."""
    INSTANCE = auto()
    """InstanceNormalization treats its elements apart: the groups of a group norm."""
    SHUFFLED = auto()
    """Merged again with the other factors in another order."""


_SAME = {"Identity", "Cast", "Mul", "Div", "Add", "Sub", "Sqrt", "Relu", "Sigmoid", "Dropout"}
_ALONG = {"Softmax", "LayerNormalization", "RMSNormalization", "LpNormalization"}


def roles(value: ir.Value, axes: Sequence[int], rank: int) -> list[set[Role]]:
    """For each of these axes of a value with `rank` axes: how it is used within the next few nodes."""
    found: list[set[Role]] = [set() for _ in axes]
    _follow(value, list(axes), rank, found, FAR)
    return found


def _follow(value: ir.Value, axes: list[int], rank: int, found: list[set[Role]], left: int) -> None:
    if left == 0:
        return
    for node, index in value.uses():
        moved = _moved(node, axes, rank)
        if moved is not None:
            _follow(node.outputs[0], moved[0], moved[1], found, left - 1)
            continue
        if node.op_type == "Reshape" and axes != sorted(axes):
            for each in found:
                each.add(Role.SHUFFLED)
        for place, axis in enumerate(axes):
            role = _role(node, index, axis, rank)
            if role is not None:
                found[place].add(role)


def _moved(node: ir.Node, axes: list[int], rank: int) -> tuple[list[int], int] | None:
    """Where the axes are after a node that only moves them, and the new rank; None for any other node."""
    if node.op_type == "Transpose":
        order = list(node.attributes.get_ints("perm", range(rank - 1, -1, -1)))
        return [order.index(axis) for axis in axes], rank
    named = named_axes(node) if node.op_type in ("Squeeze", "Unsqueeze") else None
    if named is not None and node.op_type == "Squeeze":
        gone = {axis_of(axis, rank) for axis in named}
        return None if gone & set(axes) else ([a - sum(g < a for g in gone) for a in axes], rank - len(gone))
    if named is not None:
        added = {axis_of(axis, rank + len(named)) for axis in named}
        places = [axis for axis in range(rank + len(named)) if axis not in added]
        return [places[axis] for axis in axes], rank + len(named)
    return (axes, rank) if node.op_type in _SAME else None


def _role(node: ir.Node, index: int, axis: int, rank: int) -> Role | None:
    op = node.op_type
    if op in ("Gather", "Split") and index == 0 and axis == axis_of(node.attributes.get_int("axis", 0), rank):
        return Role.SELECTED
    if (
        op == "Slice"
        and index == 0
        and axis in [axis_of(number, rank) for number, *_ in slice_ranges(node) or ()]
    ):
        return Role.SELECTED
    if op == "InstanceNormalization" and index == 0:
        return Role.INSTANCE if axis == 1 else Role.ALONG if axis > 1 else None
    if op in _ALONG and axis == axis_of(node.attributes.get_int("axis", -1), rank):
        return Role.ALONG
    if op.startswith("Reduce"):
        reduced = named_axes(node)
        return Role.ALONG if reduced is None or axis in [axis_of(a, rank) for a in reduced] else None
    if op == "MatMul" and axis == rank - (1 if index == 0 else 2):
        return Role.SUMMED
    if op == "Attention" and axis > 1:
        return Role.SUMMED
    return None
