"""Constant folding: what does not depend on an input is computed once, by onnxruntime itself.

Steps alternate until nothing changes. onnxscript's optimiser propagates shapes (Shape of a fixed axis,
CastLike, Expand and Reshape to the same shape, If with a constant condition) and does small integer
arithmetic. Everything else is evaluated node by node in onnxruntime, so that a folded graph gives the very
numbers the unfolded one gave. `foldable` says what is left alone, `stored` what folded weights were.
"""

import warnings
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer

from mlcompress.graph import stored
from mlcompress.graph.evaluate import evaluate, forecast
from mlcompress.graph.foldable import (
    STANDARD,
    Ties,
    by_result,
    constant_nodes,
    gives_output,
    is_constant,
    may_fold,
)
from mlcompress.graph.initializers import initializer
from mlcompress.graph.static_axes import known_axes
from mlcompress.graph.unused import remove_unused

_FOLDED = "folded"
_ROUNDS = 16
_SMALL = 1024
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
_ARITHMETIC = {
    *("Add", "Sub", "Mul", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Reshape"),
    *("Identity", "ReduceProd", "Equal", "Where", "Range", "Max", "Min", "ConstantOfShape"),
}


def fold(model: ir.Model) -> None:
    """Fold constants of `model` and its sub-graphs in place. Values keep their names."""
    for _ in range(_ROUNDS):
        remove_unused(model)  # dead readers would make ties of matrices that have one reader
        changed = _evaluate_all(model)
        changed |= _propagate_shapes(model)
        changed |= _select_known_axes(model)
        if not changed:
            return


def is_folded(value: ir.Value) -> bool:
    """Was this initializer computed by `fold`, rather than stored in the file?"""
    return bool(value.meta.get(_FOLDED))


def _propagate_shapes(model: ir.Model) -> bool:
    nodes = [(node, node.name) for node in ir.traversal.RecursiveGraphIterator(model.graph)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, from arithmetic that is tried on constants
        try:
            result = onnxscript.optimizer.fold_constants(
                model,
                onnx_shape_inference=True,
                input_size_limit=_SMALL,
                output_size_limit=_SMALL,
                should_fold=partial(_is_shape_arithmetic, opsets=model.opset_imports),
            )
            modified = bool(result.modified)
        except RuntimeError:  # a rewriting that fails (SplitToSequence by a computed length) leaves its node
            modified = False
    for node, name in nodes:
        node.name = name  # those of a branch that takes the place of its If get a prefix
    return modified


def _select_known_axes(model: ir.Model) -> bool:
    changed = False
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        axes = None if gives_output(node) else known_axes(node)
        if axes is not None:
            _replace(node, [axes])
            changed = True
    return changed


def _is_shape_arithmetic(node: ir.Node, opsets: dict[str, int]) -> bool:
    """May onnxscript compute this with numpy? Small integers only: the rest is onnxruntime's."""
    if node.domain not in STANDARD or node.op_type not in _ARITHMETIC or gives_output(node):
        return False
    if any(v is not None and (v.dtype not in _INTEGERS or v.const_value is None) for v in node.inputs):
        return False
    size = forecast(node, opsets).size
    return size is not None and size <= 8 * _SMALL


def _evaluate_all(model: ir.Model) -> bool:
    changed = False
    opsets = model.opset_imports
    constant = constant_nodes(model)
    ties = Ties(constant, opsets)
    for node in by_result(constant):
        if not all(map(is_constant, node.inputs)):
            continue  # something before it was left alone
        expected = None if ties.hold(node) else may_fold(node, constant, opsets)
        arrays = None if expected is None else evaluate(node, opsets, model.ir_version, expected.kinds)
        if arrays is not None:
            _replace(node, arrays)
            changed = True
    return changed


def _replace(node: ir.Node, arrays: list[np.ndarray]) -> None:
    """Put initializers of the same names in the place of a node; drop initializers nobody reads any more."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"{node.name} is in no graph")
    inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
    named = [value for value in node.outputs if value.name]
    note = stored.of_result(node)
    for value, array in zip(named, arrays, strict=True):
        made = initializer(graph, str(value.name), array)
        made.meta[_FOLDED] = True
        stored.remember(made, note)
        value.replace_all_uses_with(made)
    graph.remove(node, safe=True)
    for value in inputs:
        graph = value.graph if value.is_initializer() else None
        if graph is not None and not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]
            value.const_value = None  # whoever still holds the value need not hold its numbers
