"""Unstructured pruning: single weights become zero. The graph keeps its shape."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.initializers import numbers, set_numbers
from mlcompress.prune.criteria import Group, criteria
from mlcompress.prune.recipe import PruneSection

Masks = dict[str, NDArray[np.bool_]]
"""Initializer name -> True where the weight stays; the shape of the weight."""

WEIGHT_INPUTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1}
"""Which input of an op holds its weight matrix; recurrent ops have a second one, R, right after."""
LARGE = 64
"""Elements from which a tensor that stays as it is is worth a line in the card."""


def prunable(model: ir.Model, skip: Collection[str]) -> list[str]:
    """Names of the float weight matrices, in graph order, without those of the nodes in `skip`."""
    names: dict[str, None] = {}
    for node in model.graph:
        if node.op_type not in WEIGHT_INPUTS or node.name in skip:
            continue
        first = WEIGHT_INPUTS[node.op_type]
        last = first + (2 if node.op_type in ("LSTM", "GRU", "RNN") else 1)
        candidates = node.inputs[:2] if node.op_type == "MatMul" else node.inputs[first:last]
        for value in candidates:
            if (
                value is not None
                and value.const_value is not None
                and value.name
                and value.const_value.dtype.is_floating_point()
            ):
                names[value.name] = None
    return list(names)


def left_alone(model: ir.Model, names: Collection[str], skip: Collection[str]) -> list[dict[str, str]]:
    """Weights that are not in `names`, those in bodies of If, Loop and Scan too, and why.

    Only what has two axes longer than 1: all else is a bias or a scale.
    """
    found = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.name in names or tensor.size < LARGE:
                continue
            if sum(size != 1 for size in tensor.shape) < 2:
                continue
            readers = [use.node for use in value.uses()]
            is_inner = any(node.graph is not model.graph for node in readers)
            if reason := _reason(readers, tensor, is_inner, skip):
                found.append({"name": str(value.name), "reason": reason})
    return found


def _reason(
    readers: list[ir.Node], tensor: ir.TensorProtocol, is_inner: bool, skip: Collection[str]
) -> str | None:
    if is_inner:
        return "read inside an If, Loop or Scan: left as it is"
    if any(node.name in skip for node in readers):
        return "`skip` names its node"
    ops = ", ".join(sorted({node.op_type for node in readers}))
    if not tensor.dtype.is_floating_point():
        is_weight = any(word in ops for word in ("Dequantize", "Integer", "QLinear"))
        told = f"holds {tensor.dtype.name.lower()} numbers: prune the float model it was made from"
        return told if is_weight else None
    return f"read by {ops}: only weight matrices of layers lose single weights" if ops else None


def choose(
    model: ir.Model, names: list[str], section: PruneSection, ratio: float | None, rng: np.random.Generator
) -> Masks:
    """Which weights stay: those of the highest scores, over all tensors (global) or in each (local).

    With `threshold` a weight stays if its score reaches it; for l1 and l2 the score of a weight is |w|.
    """
    score = criteria.bind(section.criterion)
    weights = {name: numbers(model.graph.initializers[name]) for name in names}
    scores = {n: score(Group((w.reshape(-1, 1).astype(np.float64),), 1, rng)) for n, w in weights.items()}
    if ratio is None:
        kept = {name: values >= section.threshold for name, values in scores.items()}
    elif section.scope == "local":
        kept = {name: _highest(values, ratio) for name, values in scores.items()}
    else:
        together = _highest(np.concatenate(list(scores.values())), ratio)
        ends = np.cumsum([len(values) for values in scores.values()])[:-1]
        kept = dict(zip(scores, np.split(together, ends), strict=True))
    return {name: kept[name].reshape(weights[name].shape) for name in names}


def apply(model: ir.Model, masks: Masks) -> None:
    """Set the weights that do not stay to zero."""
    for name, mask in masks.items():
        value = model.graph.initializers[name]
        weight = numbers(value)
        set_numbers(value, np.where(mask, weight, weight.dtype.type(0)))


def _highest(scores: NDArray[np.float64], ratio: float) -> NDArray[np.bool_]:
    """True for all but the `ratio` lowest scores; ties fall in order of position."""
    kept = np.ones(len(scores), bool)
    kept[np.argsort(scores, kind="stable")[: round(ratio * len(scores))]] = False
    return kept
