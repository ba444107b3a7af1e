"""Which nodes constant folding computes, and in which order.

Left alone, because the file would grow, lose its meaning or its ties:
- QuantizeLinear and DequantizeLinear (they say how the graph computes), random ops, control flow;
- ops that blow small constants up (ConstantOfShape, Expand, Tile...) unless the result is a weight or a bias,
  or the ground that the elements of a sparse weight are scattered on;
- whatever would be larger than onnxruntime folds itself, or of a size that nobody knows before;
- a matrix that is read in two ways (embedding and, transposed, output layer): folding would make two
  matrices of it.
"""

from collections.abc import Mapping

import onnx_ir as ir

from mlcompress.graph.evaluate import Forecast, forecast
from mlcompress.graph.session import LARGEST_FOLDED

STANDARD = ("", "ai.onnx")
_FREE_GROWTH = 2**16
"""Bytes below which nobody minds that a constant is larger than what computes it."""

_KEPT = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Dropout"}
_KEPT |= {"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike"}
_KEPT |= {"RandomUniformLike"}
_GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Upsample", "EyeLike", "OneHot"}
_GROWING |= {"CenterCropPad", "SequenceConstruct", "HannWindow", "HammingWindow", "BlackmanWindow"}
_GROWING |= {"MelWeightMatrix"}
_SELECTING = {"Compress", "NonZero", "Unique"}
"""Ops whose result is of unknown size, but never much larger than what they read."""
_SCATTERING = {"ScatterElements", "ScatterND"}
_SHAPE_ONLY = {"Shape", "Size", "ConstantOfShape", "EyeLike"}
"""Ops that do not read the numbers of their first input (or make them up from a shape)."""
_WEIGHT_FROM = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 1, "Gemm": 0, "MatMul": 0}
_WEIGHT_FROM |= {"MatMulInteger": 0, "QLinearMatMul": 0, "LSTM": 1, "GRU": 1, "RNN": 1, "Gather": 0}
_WEIGHT_FROM |= {"PRelu": 1, "BatchNormalization": 1, "LayerNormalization": 1, "InstanceNormalization": 1}
_WEIGHT_FROM |= {"DequantizeLinear": 0, "GroupNormalization": 1, "Einsum": 0, "RMSNormalization": 1}
"""First input of an op that is a weight slot."""

Constant = Mapping[ir.Node, None]
"""Nodes, in graph order, that depend on initializers only."""


def is_constant(value: ir.Value | None) -> bool:
    """An absent optional input, or an initializer that no caller can override."""
    return value is None or (value.is_initializer() and not value.is_graph_input())


def gives_output(node: ir.Node) -> bool:
    """Does the node make an output of its graph?"""
    return any(value.is_graph_output() for value in node.outputs)


def constant_nodes(model: ir.Model) -> Constant:
    """Nodes that depend on initializers only and that may be folded."""
    found: dict[ir.Node, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        foldable = node.domain in STANDARD and node.op_type not in _KEPT and not gives_output(node)
        reads = [value for value in node.inputs if value is not None]
        if (
            foldable
            and reads
            and not has_body(node)
            and all(is_constant(v) or v.producer() in found for v in reads)
        ):
            found[node] = None
    return found


def has_body(node: ir.Node) -> bool:
    """Is it an If, Loop or Scan, or anything else with a graph inside?"""
    bodies = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in bodies for attribute in node.attributes.values())


def by_result(constant: Constant) -> list[ir.Node]:
    """The same nodes, each after what it reads, and all that one result needs before the next result begins.

    However a file orders its nodes, only one weight's intermediate tensors exist at a time.
    """
    order: dict[ir.Node, None] = {}
    for result in constant:
        if all(use.node in constant for value in result.outputs for use in value.uses()):
            continue
        waiting = [result]
        while waiting:
            node = waiting[-1]
            makers = [value.producer() for value in node.inputs if value is not None]
            before = [m for m in makers if m is not None and m in constant and m not in order]
            waiting.extend(before)
            if not before:
                order[waiting.pop()] = None
    return list(order)


def may_fold(node: ir.Node, constant: Constant, opsets: dict[str, int]) -> Forecast | None:
    """What the result of a node of initializers will be; None where it had better be left as it is."""
    expected = forecast(node, opsets)
    if not expected.readable:
        return None
    if expected.size is None:
        return expected if node.op_type in _SELECTING else None
    if expected.size > LARGEST_FOLDED:
        return None
    if node.op_type not in _GROWING:
        return expected
    stored = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
    small = expected.size <= max(_FREE_GROWTH, 4 * stored)
    return expected if small or _becomes_weight(node, constant) else None


def _becomes_weight(node: ir.Node, constant: Constant) -> bool:
    """Does the result reach a weight slot, directly or through constant nodes, or is it scattered on?"""
    waiting, seen = [node], {node}
    while waiting:
        for value in waiting.pop().outputs:
            for reader, index in value.uses():
                if reader in constant and reader not in seen:
                    seen.add(reader)
                    waiting.append(reader)
                if reader in constant and reader.op_type in _SCATTERING and index == 0:
                    return True
                if reader not in constant and index >= _WEIGHT_FROM.get(reader.op_type, index + 1):
                    return True
    return False


class Ties:
    """Matrices that several nodes read, so that folding one of these would make two matrices of one."""

    def __init__(self, constant: Constant, opsets: dict[str, int]) -> None:
        self._constant, self._opsets = constant, opsets
        self._known: dict[ir.Value, bool] = {}

    def hold(self, node: ir.Node) -> bool:
        """Is the result of `node` another view of such a matrix?"""
        if node.op_type in _SHAPE_ONLY:
            return False
        return any(
            self._is_tied(value) for value in node.inputs if value is not None and _is_viewed(value, node)
        )

    def _is_tied(self, value: ir.Value) -> bool:
        """Slicing a matrix apart (one projection into query, key and value) is no tie: the parts are not
        larger than the whole."""
        if value not in self._known:
            readers = {use.node for use in value.uses() if use.node.op_type not in _SHAPE_ONLY}
            if len(readers) < 2:
                self._known[value] = False
            elif not all(reader in self._constant for reader in readers):
                self._known[value] = True
            else:
                sizes = [forecast(reader, self._opsets).size for reader in readers]
                whole = value.const_value.nbytes if value.const_value is not None else 0
                self._known[value] = None in sizes or sum(size or 0 for size in sizes) > whole
        return self._known[value]


def _is_viewed(value: ir.Value, node: ir.Node) -> bool:
    """Is `value` a float matrix that `node` moves or scales as a whole?

    Scales and bit positions that decode several weights have larger operands beside them.
    """
    if value.dtype is None or not value.dtype.is_floating_point() or len(value.shape or ()) < 2:
        return False
    others = [other for other in node.inputs if other is not None and other is not value]
    return all(_elements(other) < _elements(value) for other in others)


def _elements(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size
