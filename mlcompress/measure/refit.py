"""Closed-form reconstruction: layers that lost inputs are fitted to give what they gave before, without
training."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import console
from mlcompress.data.dataset import Dataset
from mlcompress.data.padding import find_mask
from mlcompress.data.samples import batches
from mlcompress.graph.columns import (
    MOST_COLUMNS,
    POSITIONS,
    at_columns,
    columns,
    from_rows,
    obstacle,
    output_axis,
    to_columns,
    to_rows,
)
from mlcompress.graph.dependency import Analysis, Dead
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.initializers import constant, numbers, set_numbers
from mlcompress.measure.moments import Moments, Tap, counting

Kept = Mapping[str, NDArray[np.int64]]
"""Node name -> positions of the channels that stay."""

BATCH = 32


@dataclass(frozen=True)
class Lost:
    """What a cut takes from the layers."""

    readers: Kept
    """The nodes that lose inputs, in graph order, and the inputs that stay."""
    kept: Kept
    """The outputs that stay, of nodes that lose some."""


def lost(model: ir.Model, analysis: Analysis, dead: Dead) -> Lost:
    """Before the cut: which layers will read less, and which of their outputs stay."""
    cut, readers, kept = Cut(model, analysis.axes, analysis.dead(dead)), {}, {}
    for node in model.graph:
        if not node.name or obstacle(node) is not None or columns(node) > MOST_COLUMNS or not is_plain(node):
            continue
        source, output = node.inputs[0], node.outputs[0]
        rank = cut.rank(output)
        axis = 1 if node.op_type == "Conv" else rank - 1
        stays = cut.live(output, axis) if rank else None
        if stays is not None:
            kept[node.name] = np.flatnonzero(stays)
        place = 1 if node.op_type == "Conv" else cut.rank(source) - 1 if source is not None else 0
        grouped = node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1
        reads = cut.live(source, place) if source is not None and not grouped and cut.rank(source) else None
        if reads is not None:
            readers[node.name] = np.flatnonzero(reads)
    return Lost(readers, kept)


def refit(model: ir.Model, before: ir.Model, what: Lost, data: Dataset) -> list[str]:
    """Fit the weights of the layers that lost inputs, in place and in graph order; their names.

    Each of them minimises |W X + b - Y|^2 + RIDGE h |W - W0|^2 over the samples: X what it reads now, Y what
    it gave `before` at the outputs that stay, W0 the weights that the cut left, h the mean of diag(X X').
    Later layers read the fitted ones (He et al., "Channel Pruning", 2017). A layer without a bias stays so,
    and a bias that others read stays as it is. Positions of a sequence that a mask leaves out
    (`padding.find_mask`) do not count.

    Raises DataError for samples that the model cannot be run on, or that give NaN or infinity.
    """
    old, done = {node.name: node for node in before.graph}, []
    shared, masked = shared_weights(model), find_mask(before, data) if what.readers else None
    with console.progress("reconstruct", len(what.readers)) as advance:
        for node in list(model.graph):
            if node.name in what.readers and node.name not in shared:
                _fit(model, before, (node, old[node.name]), what.kept.get(str(node.name)), data, masked)
                done.append(str(node.name))
                advance(1)
    return done


def _fit(
    model: ir.Model,
    before: ir.Model,
    pair: tuple[ir.Node, ir.Node],
    kept: NDArray[np.int64] | None,
    data: Dataset,
    masked: str | None,
) -> None:
    node, old = pair
    source, output = str(node.inputs[0].name), str(old.outputs[0].name)  # type: ignore[union-attr]
    read, given = Tap(model, node.inputs[:1], data.name), Tap(before, old.outputs, data.name)
    moments = Moments(*rows_of(node).shape)
    for batch in batches(model, data, BATCH):
        most, mask = POSITIONS * len(batch.ids), None if masked is None else batch.inputs[masked]
        wanted = at_columns(old, counting(given(batch.inputs)[output], mask), most)
        columns = to_columns(node, counting(read(batch.inputs)[source], mask), kernel(node), most)[0]
        moments.update(columns, wanted if kept is None else wanted[kept])
    if moments.count:  # not so where all positions are padding
        solve(node, moments)


def solve(node: ir.Node, moments: Moments) -> None:
    """Give a layer the weights, and the bias that is its own, that fit the moments best."""
    bias = bias_value(node)
    put(node, bias, *moments.solve(rows_of(node), bias_of(node), fit_bias=is_own(bias)))


def put(node: ir.Node, bias: ir.Value | None, rows: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """Give a layer a weight of these rows, and `bias` the offset where nobody else reads it."""
    matrix = node.inputs[1]
    if matrix is None:
        return
    weight = numbers(matrix)
    set_numbers(matrix, from_rows(node, rows[None], weight.shape).astype(weight.dtype))
    if bias is not None and is_own(bias):
        set_numbers(bias, offset.reshape(numbers(bias).shape).astype(numbers(bias).dtype))


def is_own(bias: ir.Value | None) -> bool:
    """Whether nobody else reads a bias."""
    return bias is not None and len(bias.uses()) == 1 and not bias.is_graph_output()


def rows_of(node: ir.Node) -> NDArray[np.float64]:
    """The weight of a layer as [N, K]."""
    return np.asarray(to_rows(node, numbers(node.inputs[1]))[0], np.float64)  # type: ignore[arg-type]


def bias_of(node: ir.Node) -> NDArray[np.float64]:
    """The bias of a layer as [N], zeros where it has none."""
    bias = bias_value(node)
    return np.zeros(len(rows_of(node))) if bias is None else numbers(bias).astype(np.float64).reshape(-1)


def kernel(node: ir.Node) -> tuple[int, ...]:
    """Spatial shape of a Conv's weight, () of other layers."""
    return tuple(numbers(node.inputs[1]).shape[2:]) if node.op_type == "Conv" else ()  # type: ignore[arg-type]


def is_plain(node: ir.Node) -> bool:
    """Does it give W X + b, b absent or a constant of one number a channel? A Gemm may scale or add more."""
    bias = bias_value(node)
    if node.op_type == "Gemm" and any(
        node.attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta")
    ):
        return False
    if bias is None:
        return True
    outputs = np.asarray(constant(node.inputs[1])).shape[output_axis(node)]
    return constant(bias) is not None and numbers(bias).size == outputs


def bias_value(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def shared_weights(model: ir.Model) -> set[str]:
    """Names of nodes whose weight somebody else reads as well: it cannot suit both."""
    return {
        str(node.name)
        for node in model.graph
        if len(node.inputs) > 1
        and (weight := node.inputs[1]) is not None
        and (len(weight.uses()) > 1 or weight.is_graph_output())
    }
