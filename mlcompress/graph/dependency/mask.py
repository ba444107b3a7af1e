"""The oracle: the function after removal, computed by the whole graph with dead weights set to zero."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.analysis import Analysis, Dead
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules_norm import is_statistic, reduced
from mlcompress.graph.dependency.trace import Use
from mlcompress.graph.insert import Insertion

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


def mask(model: ir.Model, analysis: Analysis, dead: Dead) -> ir.Model:
    """A copy of `model` in which nobody reads dead units: what they compute no longer matters.

    Wherever a node sums over dead units, its weights there are zero; where there is no floating-point weight,
    the activation is multiplied by a mask. Layer and RMS norms of soft units use statistics of live units
    only, so that their removal can be checked too.
    """
    masked = model.clone()
    cut = Cut(masked, analysis.axes, analysis.dead(dead))
    nodes = {node.name: node for node in masked.graph}
    for use in analysis.uses:
        if use.reads and not _zero_weight(masked, cut, use):
            _mask_activation(masked, cut, nodes[use.node], use)
    for node in list(masked.graph):
        if node.op_type in NORMS:
            _live_statistics(masked, cut, node)
        elif is_statistic(node):
            _live_mean(masked, cut, node)
    return masked


def _zero_weight(model: ir.Model, cut: Cut, use: Use) -> bool:
    """Zero the dead slices of a constant weight; False when there is no such weight."""
    value = None if use.tensor is None else model.graph.initializers[use.tensor]
    if value is None or value.const_value is None or value.dtype not in _FLOATS:
        return False
    live = cut.live(value, use.axis)
    if live is not None:
        array = value.const_value.numpy().copy()
        np.moveaxis(array, use.axis, 0)[~live] = 0
        value.const_value = ir.tensor(array, dtype=value.dtype, name=value.name)
    return True


_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _mask_activation(model: ir.Model, cut: Cut, node: ir.Node, use: Use) -> None:
    index = next(
        (place for place, value in enumerate(node.inputs) if value is not None and value.name == use.value),
        None,
    )
    if index is None:
        return
    value = node.inputs[index]
    live = None if value is None else cut.live(value, use.value_axis)
    if value is None or live is None:
        return
    shape = [1] * cut.rank(value)
    shape[use.value_axis] = len(live)
    _replace_input(model, node, index, "Mul", live.astype(_numpy_dtype(value)).reshape(shape))


def _live_statistics(model: ir.Model, cut: Cut, node: ir.Node) -> None:
    """Normalise by live elements: replace dead ones by the live mean, and correct for their number.

    With n elements of which k live: the mean over all is then the live mean, and the variance k/n of the live
    one, so epsilon and scale shrink by k/n and its root. RMS norms have no mean: dead elements become 0.
    """
    x, scale = node.inputs[0], node.inputs[1]
    live = None if x is None else cut.live(x, -1)
    if x is None or scale is None or scale.const_value is None or live is None:
        return
    share = live.sum() / len(live)
    spread = np.diag(live).astype(np.float64)
    if node.op_type == "LayerNormalization":
        spread += np.outer(live / live.sum(), ~live)
    _replace_input(model, node, 0, "MatMul", spread.astype(_numpy_dtype(x)))
    numbers = scale.const_value.numpy() * np.sqrt(share)
    insertion = Insertion(model.graph)
    scaled = insertion.constant(f"{scale.name}_live", numbers.astype(scale.const_value.numpy().dtype))
    node.replace_input_with(1, scaled)
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", node.attributes.get_float("epsilon", 1e-5) * share)


def _live_mean(model: ir.Model, cut: Cut, node: ir.Node) -> None:
    """The mean over live elements: with n elements of which k live, dead ones count 0 and live ones n/k."""
    x = node.inputs[0]
    for axis in () if x is None else reduced(node, cut.rank(x)) or ():
        live = None if x is None else cut.live(x, axis)
        if x is not None and live is not None:
            weight = live * (len(live) / live.sum())
            shape = [len(live) if place == axis else 1 for place in range(cut.rank(x))]
            _replace_input(model, node, 0, "Mul", weight.astype(_numpy_dtype(x)).reshape(shape))


def _replace_input(model: ir.Model, node: ir.Node, index: int, op: str, operand: np.ndarray) -> None:
    insertion = Insertion(model.graph)
    value = node.inputs[index]
    inputs: Sequence[ir.Value | None] = [value, insertion.constant(f"{node.name}_live", operand)]
    made = insertion.node(op, inputs, f"{node.name}_masked", ir.DataType.FLOAT, shape=None)
    made.outputs[0].type = None if value is None else value.type
    model.graph.insert_before(node, made)
    node.replace_input_with(index, made.outputs[0])


def _numpy_dtype(value: ir.Value) -> np.dtype:
    """float32 where the file does not say."""
    return np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
