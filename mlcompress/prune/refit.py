"""Closed-form reconstruction: layers that lost inputs are fitted to give what they gave before, without
training."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import console
from mlcompress.data.dataset import Dataset
from mlcompress.data.samples import batches
from mlcompress.graph.columns import at_columns, from_rows, output_axis, to_columns, to_rows
from mlcompress.graph.dependency import Analysis, Dead
from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.initializers import constant, numbers, set_numbers
from mlcompress.measure.tapped import tapped_session
from mlcompress.prune.inputs import MOST_COLUMNS, POSITIONS, columns, obstacle

Kept = Mapping[str, NDArray[np.int64]]
"""Node name -> positions of the output channels that stay; nodes that keep all are not in it."""

SAMPLES = 256
BATCH = 32
RIDGE = 1e-3
"""Of the mean second moment: what the samples do not tell stays as it was."""


@dataclass(frozen=True)
class Lost:
    """What a cut takes from the layers."""

    readers: tuple[str, ...]
    """Names of the nodes that lose inputs, in graph order."""
    kept: Kept


def lost(model: ir.Model, analysis: Analysis, dead: Dead) -> Lost:
    """Before the cut: which layers will read less, and which of their outputs stay."""
    cut, readers, kept = Cut(model, analysis.axes, analysis.dead(dead)), [], {}
    for node in model.graph:
        if not node.name or obstacle(node) is not None or columns(node) > MOST_COLUMNS:
            continue
        source, output = node.inputs[0], node.outputs[0]
        rank = cut.rank(output)
        axis = 1 if node.op_type == "Conv" else rank - 1
        stays = cut.live(output, axis) if rank else None
        if stays is not None:
            kept[node.name] = np.flatnonzero(stays)
        place = 1 if node.op_type == "Conv" else cut.rank(source) - 1 if source is not None else 0
        grouped = node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1
        if source is not None and not grouped and cut.rank(source) and cut.live(source, place) is not None:
            readers.append(node.name)
    return Lost(tuple(readers), kept)


def refit(model: ir.Model, before: ir.Model, what: Lost, data: Dataset) -> list[str]:
    """Fit the weights of the layers that lost inputs, in place and in graph order; their names.

    Each of them minimises |W X + b - Y|^2 + RIDGE h |W - W0|^2 over the samples: X what it reads now, Y what
    it gave `before` at the outputs that stay, W0 the weights that the cut left, h the mean of diag(X X').
    Later layers read the fitted ones (He et al., "Channel Pruning", 2017). A layer without a bias stays so.
    """
    some = data.subset(np.arange(min(SAMPLES, len(data))))
    old, done = {node.name: node for node in before.graph}, []
    shared = _shared(model)
    with console.progress("reconstruct", len(what.readers)) as advance:
        for node in list(model.graph):
            if node.name in what.readers and node.name not in shared:
                _fit(model, before, node, old[node.name], what.kept.get(node.name), some)
                done.append(str(node.name))
                advance(1)
    return done


def _fit(
    model: ir.Model,
    before: ir.Model,
    node: ir.Node,
    old: ir.Node,
    kept: NDArray[np.int64] | None,
    data: Dataset,
) -> None:
    matrix, bias = node.inputs[1], _bias(node)
    if matrix is None:
        return
    weight = numbers(matrix)
    start = to_rows(node, weight)[0].astype(np.float64)
    read, given = _Tap(model, node.inputs[0]), _Tap(before, old.outputs[0])
    moments = _Moments(*start.shape)
    kernel = weight.shape[2:] if node.op_type == "Conv" else ()
    for batch in batches(model, data, BATCH):
        most = POSITIONS * len(batch.ids)
        wanted = at_columns(old, given(batch.inputs), most)
        moments.update(
            to_columns(node, read(batch.inputs), kernel, most)[0],
            wanted if kept is None else wanted[kept],
        )
    shift = np.zeros(len(start)) if bias is None else numbers(bias).astype(np.float64).reshape(-1)
    rows, offset = moments.solve(start, shift, has_bias=bias is not None)
    set_numbers(matrix, from_rows(node, rows[None], weight.shape).astype(weight.dtype))
    if bias is not None:
        set_numbers(bias, offset.reshape(numbers(bias).shape).astype(numbers(bias).dtype))


class _Moments:
    """Sums over positions of x, y, x x' and y x'."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.count = 0
        self.x, self.y = np.zeros(inputs), np.zeros(outputs)
        self.xx, self.yx = np.zeros((inputs, inputs)), np.zeros((outputs, inputs))

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """`x`: [K, M], `y`: [N, M]."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.count += x.shape[1]
        self.x, self.y = self.x + x.sum(axis=1), self.y + y.sum(axis=1)
        self.xx, self.yx = self.xx + x @ x.T, self.yx + y @ x.T

    def solve(self, start: np.ndarray, shift: np.ndarray, *, has_bias: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rows [N, K] and biases [N]; without a bias the `shift` stays."""
        xx, yx = self.xx / self.count, self.yx / self.count
        x, y = self.x / self.count, self.y / self.count
        if has_bias:
            xx, yx = xx - np.outer(x, x), yx - np.outer(y, x)
        else:
            yx = yx - np.outer(shift, x)
        size = float(np.mean(np.diag(xx)))
        damped = xx + (RIDGE * size if size > 0 else 1.0) * np.eye(len(xx))
        rows = start + np.linalg.solve(damped, (yx - start @ xx).T).T
        return rows, y - rows @ x if has_bias else shift


class _Tap:
    """One value of a model, for a batch of inputs."""

    def __init__(self, model: ir.Model, value: ir.Value | None) -> None:
        self._name = "" if value is None else str(value.name)
        is_input = value is not None and value.is_graph_input()
        self._session = None if is_input else tapped_session(model, [self._name])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._session is None:
            return inputs[self._name]
        taken = {one.name for one in self._session.get_inputs()}
        found: np.ndarray = self._session.run(None, {k: v for k, v in inputs.items() if k in taken})[0]
        return found


def _bias(node: ir.Node) -> ir.Value | None:
    """The node's own bias of one number a channel that nobody else reads."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or constant(value) is None or len(value.uses()) > 1:
        return None
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    is_plain = node.op_type == "Conv" or factors == [1.0, 1.0]
    outputs = np.asarray(constant(node.inputs[1])).shape[0 if node.op_type == "Conv" else output_axis(node)]
    return value if is_plain and numbers(value).size == outputs else None


def _shared(model: ir.Model) -> set[str]:
    """Names of nodes whose weight another node reads as well: it cannot suit both."""
    return {
        str(node.name)
        for node in model.graph
        if len(node.inputs) > 1 and node.inputs[1] is not None and len(node.inputs[1].uses()) > 1
    }
