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
