"""Closed-form reconstruction: layers that lost inputs are fitted to give what they gave before, without
training."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from mlcompress import console
from mlcompress.data.dataset import Dataset
from mlcompress.data.samples import batches
from mlcompress.errors import DataError
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
from mlcompress.graph.session import ORT_ERRORS, reason
from mlcompress.measure.tapped import tapped_session

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
        if not node.name or obstacle(node) is not None or columns(node) > MOST_COLUMNS or not _is_plain(node):
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
    Later layers read the fitted ones (He et al., "Channel Pruning", 2017). A layer without a bias stays so,
    and a bias that others read stays as it is.

    Raises DataError for samples that the model cannot be run on, or that give NaN or infinity.
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
    is_own = bias is not None and len(bias.uses()) == 1 and not bias.is_graph_output()
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
    rows, offset = moments.solve(start, shift, fit_bias=is_own)
    set_numbers(matrix, from_rows(node, rows[None], weight.shape).astype(weight.dtype))
    if bias is not None and is_own:
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

    def solve(self, start: np.ndarray, shift: np.ndarray, *, fit_bias: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rows [N, K] and biases [N], which are the `shift` where they are not fitted."""
        xx, yx = self.xx / self.count, self.yx / self.count
        x, y = self.x / self.count, self.y / self.count
        if fit_bias:
            xx, yx = xx - np.outer(x, x), yx - np.outer(y, x)
        else:
            yx = yx - np.outer(shift, x)
        size = float(np.mean(np.diag(xx)))
        damped = xx + (RIDGE * size if size > 0 else 1.0) * np.eye(len(xx))
        rows = start + np.linalg.solve(damped, (yx - start @ xx).T).T
        return rows, y - rows @ x if fit_bias else shift


class _Tap:
    """One value of a model, for a batch of inputs. Raises DataError where the model cannot be run on them, or
    the value is not finite."""

    def __init__(self, model: ir.Model, value: ir.Value | None) -> None:
        self._name = "" if value is None else str(value.name)
        is_input = value is not None and value.is_graph_input()
        self._session = None if is_input else tapped_session(model, [self._name])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        found = inputs[self._name] if self._session is None else self._run(self._session, inputs)
        if not np.isfinite(found).all():
            raise DataError(
                f"data.calibration: tensor {self._name!r} holds NaN or infinity; check the transforms"
            )
        return found

    def _run(self, session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        taken = {one.name for one in session.get_inputs()}
        try:
            found: np.ndarray = session.run(None, {k: v for k, v in inputs.items() if k in taken})[0]
        except ORT_ERRORS as error:
            raise DataError(
                f"data.calibration: the model cannot be run on these samples: {reason(error)}"
            ) from error
        return found


def _is_plain(node: ir.Node) -> bool:
    """Does it give W X + b, b absent or a constant of one number a channel? A Gemm may scale or add more."""
    bias = _bias(node)
    if node.op_type == "Gemm" and any(
        node.attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta")
    ):
        return False
    if bias is None:
        return True
    outputs = np.asarray(constant(node.inputs[1])).shape[output_axis(node)]
    return constant(bias) is not None and numbers(bias).size == outputs


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _shared(model: ir.Model) -> set[str]:
    """Names of nodes whose weight somebody else reads as well: it cannot suit both."""
    return {
        str(node.name)
        for node in model.graph
        if len(node.inputs) > 1
        and (weight := node.inputs[1]) is not None
        and (len(weight.uses()) > 1 or weight.is_graph_output())
    }
