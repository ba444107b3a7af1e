"""Which units of a weight stay, by their scores: over all weights, each weight alone, each row, or N of M."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.columns import from_rows, to_rows

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]
RECURRENT = ("LSTM", "GRU", "RNN")


def rows(node: ir.Node, array: np.ndarray) -> np.ndarray:
    """A weight (or an array of its shape) as rows of the inputs of one output, [G, N, K].

    Conv: the inputs are channels, then kernel positions; Gemm and MatMul: the axis that is summed over; LSTM,
    GRU and RNN: the last axis.
    """
    return array.reshape(1, -1, array.shape[-1]) if node.op_type in RECURRENT else to_rows(node, array)


def back(node: ir.Node, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The opposite of `rows`."""
    return array.reshape(shape) if node.op_type in RECURRENT else from_rows(node, array, shape)


def no_rows(node: ir.Node, name: str, rank: int) -> str | None:
    """Why a weight has no rows of inputs; None where it has."""
    if node.op_type in RECURRENT or node.op_type == "Conv":
        return None
    if node.op_type not in ("Gemm", "MatMul"):
        return f"the inputs of an output of {node.op_type} are not one row of it"
    if node.inputs[1] is None or node.inputs[1].name != name or rank != 2:
        return "it is not the second input of a product, or not a matrix"
    return None


def highest(scores: Scores, ratio: float) -> Mask:
    """True for all but the `ratio` lowest scores; ties fall in order of position."""
    kept = np.ones(scores.size, bool)
    kept[np.argsort(scores, axis=None, kind="stable")[: round(ratio * scores.size)]] = False
    return kept.reshape(scores.shape)


def together(scores: Mapping[str, Scores], ratio: float) -> dict[str, Mask]:
    """The `ratio` lowest of all weights go."""
    kept = highest(np.concatenate([values.ravel() for values in scores.values()]), ratio)
    ends = np.cumsum([values.size for values in scores.values()])[:-1]
    parts = np.split(kept, ends)
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def by_row(scores: Scores, ratio: float) -> Mask:
    """The same share of each row [..., K]."""
    count = round(ratio * scores.shape[-1])
    kept = np.ones(scores.shape, bool)
    np.put_along_axis(kept, np.argsort(scores, axis=-1, kind="stable")[..., :count], False, axis=-1)
    return kept


def n_of_m(scores: Scores, n: int, m: int) -> Mask:
    """The `n` highest of each `m` successive inputs of a row [..., K]; a shorter rest keeps `n` too."""
    width = scores.shape[-1]
    padded = np.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, -width % m)], constant_values=-np.inf)
    blocks = padded.reshape(*scores.shape[:-1], -1, m)
    kept = np.zeros(blocks.shape, bool)
    places = np.argsort(-blocks, axis=-1, kind="stable")[..., :n]  # of equal ones the first stays
    np.put_along_axis(kept, places, True, axis=-1)
    return kept.reshape(padded.shape)[..., :width]
