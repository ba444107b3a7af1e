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


def refit_sums(model: ir.Model, before: ir.Model, entries: Collection[str], data: Dataset) -> list[str]:
    """Fit the last layer of every branch of the residual sums behind the tensors `entries`, in place and in
    graph order; their names.

    With S the sum of that name in `before` and R the stream of `model`, |W X + b - (S - R)|^2 plus
    r h |W - W0|^2 is minimised over the samples: X what the layer reads, W0 its weight, h the mean of
    diag(X X'). r is the one of `RIDGES` that does best on every other sample when the rest is fitted, which
    are fitted too in the end; a layer that none of them helps stays as it is. Later layers read the fitted
    ones. Padding does not count (`padding.find_mask`).

    Raises DataError for samples that a model cannot be run on, or that give NaN or infinity.
    """
    found = branches(model, before, entries)
    masked = find_mask(before, data) if found else None
    fitted = []
    with console.progress("reconstruct", len(found)) as advance:
        for branch in found:
            if _fit(branch, model, before, data, masked):
                fitted.append(str(branch.node.name))
            advance(1)
    return fitted


def branches(model: ir.Model, before: ir.Model, entries: Collection[str]) -> list[Branch]:
    """The sums of two computed values behind `entries` that `before` has too, and that end in a layer that no
    other node reads or shares; where both values do, the one that comes last."""
    known = {str(value.name) for node in before.graph for value in node.outputs}
    place = {node: number for number, node in enumerate(model.graph)}
    shared, found = shared_weights(model), list[Branch]()
    for node in _behind(model, entries):
        if node.op_type not in ("Add", "Sum") or len(node.inputs) != 2 or node.outputs[0].name not in known:
            continue
        one, other = node.inputs
        if one is None or other is None or constant(one) is not None or constant(other) is not None:
            continue
        ends = [
            Branch(*end, node.outputs[0], stream)
            for value, stream in ((one, other), (other, one))
            if (end := _end(value)) is not None and end[0].name not in shared
        ]
        if ends:
            found.append(max(ends, key=lambda branch: place[branch.node]))
    return found


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
    if node is not None and node.op_type == "Add" and len(value.uses()) == 1:
        parts = [part for part in node.inputs if part is not None]
        biases = [part for part in parts if constant(part) is not None and numbers(part).ndim == 1]
        if len(biases) != 1 or len(biases[0].uses()) > 1:
            return None
        bias = biases[0]
        value = parts[0] if parts[1] is bias else parts[1]
        node = value.producer()
    if node is None or not node.name or obstacle(node) is not None or len(value.uses()) != 1:
        return None
    own = bias_value(node)
    is_one = node.op_type != "Conv" or node.attributes.get_int("group", 1) == 1
    if not is_one or not is_plain(node) or columns(node) > MOST_COLUMNS:
        return None
    if bias is None:
        return node, own
    return (node, bias) if own is None and numbers(bias).size == len(rows_of(node)) else None


def _fit(branch: Branch, model: ir.Model, before: ir.Model, data: Dataset, masked: str | None) -> bool:
    """Whether that changed anything."""
    node, bias = branch.node, branch.bias
    start = rows_of(node)
    shift = np.zeros(len(start)) if bias is None else numbers(bias).astype(np.float64).reshape(-1)
    fitted, held = _moments(branch, model, before, data, masked)
    fit_bias = is_own(bias)

    def error(ridge: float) -> float:
        return held.misfit(*fitted.solve(start, shift, fit_bias=fit_bias, ridge=ridge))

    errors = {np.inf: held.misfit(start, shift)} | {ridge: error(ridge) for ridge in RIDGES}
    best = min(errors, key=errors.__getitem__)  # the first of equal ones
    if best == np.inf:
        return False
    put(node, bias, *(fitted + held).solve(start, shift, fit_bias=fit_bias, ridge=best))
    return True


def _moments(
    branch: Branch, model: ir.Model, before: ir.Model, data: Dataset, masked: str | None
) -> tuple[Moments, Moments]:
    """Of the layer's inputs and what it should give, over samples of even and of odd number."""
    node, stream = branch.node, str(branch.stream.name)
    source, total = str(node.inputs[0].name), str(branch.total.name)  # type: ignore[union-attr]
    read, given = Tap(model, [node.inputs[0], branch.stream]), Tap(before, [branch.total])
    halves = Moments(*rows_of(node).shape), Moments(*rows_of(node).shape)
    for batch in batches(model, data, BATCH):
        found, wanted = read(batch.inputs), given(batch.inputs)[total]
        added = wanted - found[stream]
        for half, moments in enumerate(halves):
            chosen = batch.ids % 2 == half
            if not chosen.any():
                continue
            most = POSITIONS * int(chosen.sum())
            mask = None if masked is None else batch.inputs[masked][chosen]
            x = to_columns(node, counting(found[source][chosen], mask), kernel(node), most)[0]
            moments.update(x, at_columns(node, counting(added[chosen], mask), most))
    return halves
