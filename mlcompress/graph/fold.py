"""Constant folding: what does not depend on an input is computed once, by onnxruntime itself.

Steps alternate until nothing changes. onnxscript's optimiser propagates shapes (Shape of a fixed axis,
CastLike, Expand and Reshape to the same shape, If with a constant condition) and does small integer
arithmetic. Everything else is evaluated node by node in onnxruntime, so that a folded graph gives the very
numbers the unfolded one gave.

Left alone, because the file would grow, lose its meaning or its ties:
- QuantizeLinear and DequantizeLinear (they say how the graph computes), random ops, control flow;
- ops that blow small constants up (ConstantOfShape, Expand, Tile...) unless the result is a weight or a bias;
- a matrix that is read in two ways (embedding and, transposed, output layer): folding would make two
  matrices of it.
"""

import warnings
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer

from mlcompress.graph.evaluate import evaluate, forecast
from mlcompress.graph.initializers import initializer
from mlcompress.graph.session import LARGEST_FOLDED
from mlcompress.graph.static_axes import known_axes
from mlcompress.graph.unused import remove_unused

_FOLDED = "folded"
_ROUNDS = 16
_SMALL = 1024
_STANDARD = ("", "ai.onnx")
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
_FREE_GROWTH = 2**16
"""Bytes below which nobody minds that a constant is larger than what computes it."""

_KEPT = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Constant",
    "Dropout",
    "Bernoulli",
    "Multinomial",
}
_KEPT |= {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}
_GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Upsample", "EyeLike", "OneHot"}
_GROWING |= {
    "CenterCropPad",
    "SequenceConstruct",
    "HannWindow",
    "HammingWindow",
    "BlackmanWindow",
    "MelWeightMatrix",
}
_SHAPE_ONLY = {"Shape", "Size", "ConstantOfShape", "EyeLike"}
"""Ops that do not read the numbers of their first input (or make them up from a shape)."""
_ARITHMETIC = {
    "Add",
    "Sub",
    "Mul",
    "Concat",
    "Gather",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Reshape",
    "Identity",
}
_ARITHMETIC |= {"ReduceProd", "Equal", "Where", "Range", "Max", "Min", "ConstantOfShape"}
_WEIGHT_FROM = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 1, "Gemm": 0, "MatMul": 0}
_WEIGHT_FROM |= {
    "MatMulInteger": 0,
    "QLinearMatMul": 0,
    "LSTM": 1,
    "GRU": 1,
    "RNN": 1,
    "Gather": 0,
    "PRelu": 1,
}
_WEIGHT_FROM |= {
    "BatchNormalization": 1,
    "LayerNormalization": 1,
    "InstanceNormalization": 1,
    "DequantizeLinear": 0,
}
_WEIGHT_FROM |= {"GroupNormalization": 1, "Einsum": 0, "RMSNormalization": 1}
"""First input of an op that is a weight slot."""


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


def is_constant(value: ir.Value | None) -> bool:
    """An absent optional input, or an initializer that no caller can override."""
    return value is None or (value.is_initializer() and not value.is_graph_input())


def _propagate_shapes(model: ir.Model) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, from arithmetic that is tried on constants
        result = onnxscript.optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=_SMALL,
            output_size_limit=_SMALL,
            should_fold=partial(_is_shape_arithmetic, opsets=model.opset_imports),
        )
    return bool(result.modified)


def _select_known_axes(model: ir.Model) -> bool:
    changed = False
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        axes = None if _gives_output(node) else known_axes(node)
        if axes is not None:
            _replace(node, [axes])
            changed = True
    return changed


def _is_shape_arithmetic(node: ir.Node, opsets: dict[str, int]) -> bool:
    """May onnxscript compute this with numpy? Small integers only: the rest is onnxruntime's."""
    if node.domain not in _STANDARD or node.op_type not in _ARITHMETIC or _gives_output(node):
        return False
    if any(v is not None and (v.dtype not in _INTEGERS or v.const_value is None) for v in node.inputs):
        return False
    size = forecast(node, opsets).size
    return size is not None and size <= 8 * _SMALL


def _evaluate_all(model: ir.Model) -> bool:
    changed = False
    opsets = model.opset_imports
    constant = _constant_nodes(model)
    tied: dict[ir.Value, bool] = {}
    for node in constant:
        if not all(map(is_constant, node.inputs)):
            continue  # something before it was left alone
        if any(_is_tied(value, node, constant, opsets, tied) for value in node.inputs if value is not None):
            continue
        if not _affordable(node, constant, opsets):
            continue
        arrays = evaluate(node, opsets, model.ir_version)
        if arrays is not None:
            _replace(node, arrays)
            changed = True
    return changed


def _constant_nodes(model: ir.Model) -> dict[ir.Node, None]:
    """Nodes, in order, that depend on initializers only and may be folded."""
    found: dict[ir.Node, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        foldable = node.domain in _STANDARD and node.op_type not in _KEPT and not _gives_output(node)
        has_body = any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        )
        reads = [value for value in node.inputs if value is not None]
        if (
            foldable
            and reads
            and not has_body
            and all(is_constant(v) or v.producer() in found for v in reads)
        ):
            found[node] = None
    return found


def _gives_output(node: ir.Node) -> bool:
    return any(value.is_graph_output() for value in node.outputs)


def _affordable(node: ir.Node, constant: dict[ir.Node, None], opsets: dict[str, int]) -> bool:
    expected = forecast(node, opsets)
    if not expected.readable:
        return False
    if node.op_type not in _GROWING:
        return expected.size is None or expected.size <= LARGEST_FOLDED
    if expected.size is None or expected.size > LARGEST_FOLDED:
        return False
    stored = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
    return expected.size <= max(_FREE_GROWTH, 4 * stored) or _becomes_weight(node, constant)


def _becomes_weight(node: ir.Node, constant: dict[ir.Node, None]) -> bool:
    """Does the result reach a weight slot, directly or through other constant nodes?"""
    waiting, seen = [node], {node}
    while waiting:
        for value in waiting.pop().outputs:
            for reader, index in value.uses():
                if reader in constant and reader not in seen:
                    seen.add(reader)
                    waiting.append(reader)
                if reader not in constant and index >= _WEIGHT_FROM.get(reader.op_type, index + 1):
                    return True
    return False


def _is_tied(
    value: ir.Value,
    node: ir.Node,
    constant: dict[ir.Node, None],
    opsets: dict[str, int],
    known: dict[ir.Value, bool],
) -> bool:
    """Is `value` a matrix that `node` shares with others, so that folding would make two matrices of one?

    Slicing a matrix apart (one projection into query, key and value) is no tie: the parts are not larger
    than the whole.
    """
    if node.op_type in _SHAPE_ONLY or len(value.shape or ()) < 2:
        return False
    if value not in known:
        readers = {use.node for use in value.uses() if use.node.op_type not in _SHAPE_ONLY}
        if len(readers) < 2:
            known[value] = False
        elif not all(reader in constant for reader in readers):
            known[value] = True
        else:
            sizes = [forecast(reader, opsets).size for reader in readers]
            whole = value.const_value.nbytes if value.const_value is not None else 0
            known[value] = None in sizes or sum(size or 0 for size in sizes) > whole
    return known[value]


def _replace(node: ir.Node, arrays: list[np.ndarray]) -> None:
    """Put initializers of the same names in the place of a node; drop initializers nobody reads any more."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"{node.name} is in no graph")
    inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
    named = [value for value in node.outputs if value.name]
    for value, array in zip(named, arrays, strict=True):
        made = initializer(graph, str(value.name), array)
        made.meta[_FOLDED] = True
        value.replace_all_uses_with(made)
    graph.remove(node, safe=True)
    for value in inputs:
        graph = value.graph if value.is_initializer() else None
        if graph is not None and not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]
