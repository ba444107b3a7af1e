"""Closed-form reconstruction where layers were left out: what still adds to a residual stream is fitted to
give what all layers gave there, without training."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress import console
from mlcompress.data.dataset import Dataset
from mlcompress.data.padding import find_mask
from mlcompress.data.samples import batches
from mlcompress.graph.columns import MOST_COLUMNS, POSITIONS, at_columns, columns, obstacle, to_columns
from mlcompress.graph.initializers import constant, numbers
from mlcompress.measure.moments import RIDGE, Moments, Tap, counting
from mlcompress.measure.refit import (
    BATCH,
    bias_value,
    is_own,
    is_plain,
    kernel,
    put,
    rows_of,
    shared_weights,
)

RIDGES = (RIDGE, 1e-2, 1e-1, 1.0, 10.0)
"""Of the mean second moment."""
_MOST_COLUMNS = MOST_COLUMNS // 2
"""Two sets of second moments, their sum and two copies to solve with are held at once."""
_NO_END = "no layer of its own ends a branch: a norm, a shared weight or another reader is in between"


@dataclass(frozen=True)
class Branch:
    """A residual sum, and the last layer of what is added to the stream."""

    node: ir.Node
    """Conv, Gemm or MatMul."""
    bias: ir.Value | None
    """One number a channel that an Add behind the node adds; None: the node's own, or none."""
    total: ir.Value
    stream: ir.Value
    """What the branch is added to."""


@dataclass(frozen=True)
class Fitted:
    """Names of the layers that were fitted; of the sums that were not, and why, for the card."""

    layers: list[str]
    skipped: list[dict[str, str]]


def refit_sums(model: ir.Model, before: ir.Model, entries: Collection[str], data: Dataset) -> Fitted:
    """Fit the last layer of every branch of the residual sums behind the tensors `entries`, in place and in
    graph order.

    With S the sum of that name in `before` and R the stream of `model`, |W X + b - (S - R)|^2 plus
    r h |W - W0|^2 is minimised over the samples: X what the layer reads, W0 its weight, h the mean of
    diag(X X'). r is the one of `RIDGES` that does best on every other sample when the rest is fitted, which
    are fitted too in the end; a layer that none of them helps stays as it is. Later layers read the fitted
    ones. Padding does not count (`padding.find_mask`).

    Raises DataError for samples that a model cannot be run on, or that give NaN or infinity.
    """
    found, skipped = branches(model, before, entries)
    masked = find_mask(before, data) if found else None
    layers = []
    with console.progress("reconstruct", len(found)) as advance:
        for branch in found:
            why = _fit(branch, model, before, data, masked)
            if why:
                skipped.append({"name": str(branch.total.name), "reason": f"not fitted: {why}"})
            else:
                layers.append(str(branch.node.name))
            advance(1)
    return Fitted(layers, skipped)


def branches(
    model: ir.Model, before: ir.Model, entries: Collection[str]
) -> tuple[list[Branch], list[dict[str, str]]]:
    """The sums of two computed values behind `entries` that `before` has too, and that end in a layer that no
    other node reads or shares; where both values do, the one that comes last. And those that do not."""
    known = {str(value.name) for node in before.graph for value in node.outputs}
    place = {node: number for number, node in enumerate(model.graph)}
    shared, found, skipped = shared_weights(model), list[Branch](), list[dict[str, str]]()
    for node in _behind(model, entries):
        total = node.outputs[0]
        if node.op_type not in ("Add", "Sum") or len(node.inputs) != 2 or total.name not in known:
            continue
        one, other = node.inputs
        if one is None or other is None or constant(one) is not None or constant(other) is not None:
            continue
        ends = [
            Branch(*end, total, stream)
            for value, stream in ((one, other), (other, one))
            if (end := _end(value)) is not None and end[0].name not in shared
        ]
        if ends:
            found.append(max(ends, key=lambda branch: place[branch.node]))
        else:
            skipped.append({"name": str(total.name), "reason": f"not fitted: {_NO_END}"})
    return found, skipped


def _behind(model: ir.Model, entries: Collection[str]) -> list[ir.Node]:
    """All nodes that depend on one of `entries`, in graph order."""
    changed = set(entries)
    found = []
    for node in model.graph:
        if any(value is not None and value.name in changed for value in node.inputs):
            changed.update(str(value.name) for value in node.outputs)
            found.append(node)
    return found


def _end(value: ir.Value) -> tuple[ir.Node, ir.Value | None] | None:
    """The layer that makes `value` for one reader, and the bias that an Add puts in between."""
    node = value.producer()
    bias = None
    if node is not None and node.op_type == "Add" and _has_one_reader(value):
        parts = [part for part in node.inputs if part is not None]
        biases = [part for part in parts if constant(part) is not None and numbers(part).ndim == 1]
        if len(biases) != 1 or not is_own(biases[0]):
            return None
        bias = biases[0]
        value = parts[0] if parts[1] is bias else parts[1]
        node = value.producer()
    if node is None or not node.name or obstacle(node) is not None or not _has_one_reader(value):
        return None
    own = bias_value(node)
    is_one = node.op_type != "Conv" or node.attributes.get_int("group", 1) == 1
    if not is_one or not is_plain(node) or columns(node) > _MOST_COLUMNS:
        return None
    if bias is None:
        return node, own
    # behind a Conv a vector is added along the last axis, which is not that of the channels
    is_bias = own is None and node.op_type != "Conv" and numbers(bias).size == len(rows_of(node))
    return (node, bias) if is_bias else None


def _has_one_reader(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _fit(branch: Branch, model: ir.Model, before: ir.Model, data: Dataset, masked: str | None) -> str:
    """Why the layer stays as it is; "" where it is fitted."""
    node, bias = branch.node, branch.bias
    start = rows_of(node)
    shift = np.zeros(len(start)) if bias is None else numbers(bias).astype(np.float64).reshape(-1)
    halves = [data.subset(np.arange(first, len(data), 2)) for first in (0, 1)]
    fitted, held = (_moments(branch, model, before, half, masked) for half in halves)
    if fitted is None or held is None:
        return "what it adds is spread over a stream of another shape"
    if not fitted.count or not held.count:
        return "too few samples"
    fit_bias = is_own(bias)

    def error(ridge: float) -> float:
        return held.misfit(*fitted.solve(start, shift, fit_bias=fit_bias, ridge=ridge))

    errors = {np.inf: held.misfit(start, shift)} | {ridge: error(ridge) for ridge in RIDGES}
    best = min(errors, key=errors.__getitem__)  # the first of equal ones
    if best == np.inf:
        return "no fit was better on samples that it was not made on"
    put(node, bias, *(fitted + held).solve(start, shift, fit_bias=fit_bias, ridge=best))
    return ""


def _moments(
    branch: Branch, model: ir.Model, before: ir.Model, data: Dataset, masked: str | None
) -> Moments | None:
    """Of the layer's inputs and what it should give; None where that has another shape than what it gives."""
    node = branch.node
    tapped = [node.inputs[0], node.outputs[0], branch.stream]
    source, output, stream = (str(value.name) for value in tapped if value is not None)
    read, given = Tap(model, tapped, data.name), Tap(before, [branch.total], data.name)
    moments = Moments(*rows_of(node).shape)
    for batch in batches(model, data, BATCH):
        found, wanted = read(batch.inputs), given(batch.inputs)[str(branch.total.name)]
        added = wanted - found[stream]
        if not added.shape == wanted.shape == found[output].shape:
            return None
        most, mask = POSITIONS * len(batch.ids), None if masked is None else batch.inputs[masked]
        x = to_columns(node, counting(found[source], mask), kernel(node), most)[0]
        moments.update(x, at_columns(node, counting(added, mask), most))
    return moments
