"""Removes units from a graph: shorter weights, and whatever nodes say about lengths."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.analysis import Analysis, Dead
from mlcompress.graph.dependency.cut import Cut, shorten
from mlcompress.graph.dependency.rules import REWRITES
from mlcompress.graph.operands import key


def remove(model: ir.Model, analysis: Analysis, dead: Dead) -> dict[str, int]:
    """Remove units in place; returns how many units of each family went.

    Initializers get fresh tensors under their names; groups, sizes, targets, indices and hidden sizes follow;
    shapes of values are brought up to date. The analysis is void afterwards. Raises ValueError, before
    anything changes, when a family or unit does not exist, when the analysis is of another model, or when an
    axis would become empty (none does while every family keeps a unit).
    """
    cut = Cut(model, analysis.axes, analysis.dead(dead))
    shapes = _new_shapes(model, analysis, cut)
    for node in list(model.graph):
        mend = REWRITES.get(key(node))
        if mend is not None and any(
            value is not None and cut.touches(value) for value in (*node.inputs, *node.outputs)
        ):
            mend(node, cut)
    for value in model.graph.initializers.values():
        if value.name in shapes and value.const_value is not None:
            masks = [cut.live(value, axis) for axis in range(cut.rank(value))]
            shorten(value, value.const_value.numpy(), masks)
    for node in model.graph:
        for value in node.outputs:
            _refresh(value, cut)
    return {name: len(np.unique(units)) for name, units in dead.items() if len(units)}


def shapes_after(model: ir.Model, analysis: Analysis, dead: Dead) -> dict[str, tuple[int, ...]]:
    """New shape of every initializer that `remove` would shorten, without removing anything."""
    return _new_shapes(model, analysis, Cut(model, analysis.axes, analysis.dead(dead)))


def _new_shapes(model: ir.Model, analysis: Analysis, cut: Cut) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, axes in analysis.axes.items():
        lengths = {axis: len(ids) for axis, ids in enumerate(axes) if ids is not None}
        live = {axis: cut.size(name, axis) for axis in lengths}
        empty = [axis for axis, length in live.items() if length == 0]
        if empty:
            raise ValueError(f"{name}: axis {empty[0]} would lose all of its {lengths[empty[0]]} elements")
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None or live == lengths:
            continue
        shape = list(value.const_value.shape.numpy())
        if any(shape[axis] != length for axis, length in lengths.items()):
            raise ValueError(f"{name}: its shape is not the one that was analysed")
        shapes[name] = tuple(live.get(axis, length) for axis, length in enumerate(shape))
    return shapes


def _refresh(value: ir.Value, cut: Cut) -> None:
    """Shorter axes in the shape of a value; a shape that contradicts the analysis is dropped."""
    if value.shape is None or not cut.touches(value):
        return
    if len(value.shape) != cut.rank(value):
        value.shape = None
        return
    lengths = [cut.length(value, axis) for axis in range(cut.rank(value))]
    value.shape = ir.Shape(
        [dim if new is None else new for dim, new in zip(value.shape, lengths, strict=True)]
    )
