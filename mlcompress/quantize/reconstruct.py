"""Fits weights and biases of integer layers to what they really read, in the order of the graph.

Each layer is fitted when everything before it is final: the float model says what it should compute, the
quantised one what it is given. Every step runs both over the samples and keeps second moments only, so
memory is a batch of activations and K x K of the layers at hand.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mlcompress import console
from mlcompress.data.samples import batches
from mlcompress.graph.initializers import constant
from mlcompress.quantize.activations import Range
from mlcompress.quantize.bias_correction import bias_place, correct
from mlcompress.quantize.calibrate import tapped_session
from mlcompress.quantize.calibrated import Calibrated, Fitted
from mlcompress.quantize.columns import from_rows, to_columns, to_rows
from mlcompress.quantize.gram import Gram
from mlcompress.quantize.integer import WEIGHTED, lay_out, output_axis
from mlcompress.quantize.qdq_weights import bias_floor
from mlcompress.quantize.rounding import code_levels, roundings
from mlcompress.quantize.weights import quantised

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset
    from mlcompress.quantize.recipe import QuantizeSection

SAMPLES = 128
"""Of the calibration data, evenly spread: second moments settle sooner than the ends of ranges do."""
POSITIONS = 512
"""Of one sample's feature map, evenly spread."""
BATCH = 8
DAMPING = 0.01
"""Of the mean second moment, as in GPTQ and SparseGPT."""


def fit(
    ready: Calibrated, integer: Collection[str], section: "QuantizeSection", data: "Dataset"
) -> Calibrated:
    """`ready` with fitted weights and biases for the layers among `integer`, as the recipe asks.

    A weight that several nodes read, and a node whose name is not its own, are left to plain rounding.
    """
    if section.rounding.name == "nearest" and not section.bias_correction:
        return ready
    some = data.subset(np.arange(min(SAMPLES, len(data))) * len(data) // min(SAMPLES, len(data)))
    names = frozenset(integer)
    layout = lay_out(ready.base.graph, lambda node: node.name in names)
    shared = Counter(node.name for node in ready.base.graph)
    layers = [node for node in layout.nodes if _can_fit(node) and shared[node.name] == 1]
    ranges = {
        node: ready.ranges[str(layout.roots[source].name)] for node in layers if (source := node.inputs[0])
    }
    with console.progress("fit weights", len(layers)) as advance:
        for step in _independent(ready.base.graph, layers):
            grams = _observe(ready, names, step, ranges, some)
            found = {str(node.name): _fit(ready, node, grams[node], ranges[node], section) for node in step}
            ready = replace(ready, fitted={**ready.fitted, **found})
            advance(len(step))
    return ready


def _can_fit(node: ir.Node) -> bool:
    return node.op_type in WEIGHTED and node.inputs[1] is not None and len(node.inputs[1].uses()) == 1


def _independent(main: ir.Graph, layers: Sequence[ir.Node]) -> Iterator[list[ir.Node]]:
    """The layers in order, in runs of which none reads what another of the run makes."""
    chosen, step, reached = set(layers), list[ir.Node](), set[ir.Value]()
    for node in main:
        after = any(value in reached for value in node.inputs if value is not None)
        if node in chosen:
            if after:
                yield step
                step, reached, after = [], set(), False
            step.append(node)
        if after or node in chosen:
            reached.update(node.outputs)
    if step:
        yield step


def _observe(
    ready: Calibrated,
    integer: Collection[str],
    step: Sequence[ir.Node],
    ranges: Mapping[ir.Node, Range],
    data: "Dataset",
) -> dict[ir.Node, Gram]:
    """Second moments of what the layers of `step` read."""
    made, _ = ready.build(integer, "plain")
    names = sorted({str(node.inputs[0].name) for node in step if node.inputs[0] is not None})
    inputs = {str(value.name) for value in ready.base.graph.inputs}
    sides = [_tap(model, [name for name in names if name not in inputs]) for model in (ready.base, made)]
    grams = {node: Gram() for node in step}
    for batch in batches(ready.base, data, BATCH):
        clean, noisy = ({**batch.inputs, **side(batch.inputs)} for side in sides)
        for node, gram in grams.items():
            weight, name = (
                np.asarray(constant(node.inputs[1])),
                str(node.inputs[0].name if node.inputs[0] else ""),
            )
            kernel, most = weight.shape[2:], POSITIONS * len(batch.ids)
            given = ready.activation.fake(noisy[name], *ranges[node])
            columns = [to_columns(node, values, kernel, most) for values in (clean[name], given)]
            gram.update(columns[0], columns[1], len(batch.ids))
    return grams


def _tap(
    model: ir.Model, names: Sequence[str]
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Runs the part of the model that makes the named tensors."""
    if not names:
        return lambda feed: {}
    session = tapped_session(model, names)
    wanted = {value.name for value in session.get_inputs()}

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        read: dict[str, Any] = {name: array for name, array in feed.items() if name in wanted}
        return dict(zip(names, session.run(list(names), read), strict=True))

    return run


def _fit(ready: Calibrated, node: ir.Node, gram: Gram, limits: Range, section: "QuantizeSection") -> Fitted:
    array = np.asarray(constant(node.inputs[1]))
    weight = to_rows(node, array.astype(np.float64))
    place = bias_place(node)
    corrects = section.bias_correction and place is not None
    axes = (output_axis(node),) if ready.per_channel else ()
    floor = bias_floor(array, output_axis(node), [node], {node: ready.activation.parameters(*limits)[0]})
    codes, scales = quantised(
        array, axes, ready.scheme, floor=floor if ready.per_channel else floor.max(keepdims=True)
    )
    spread = to_rows(node, np.broadcast_to(scales.astype(np.float64), array.shape))
    rounding = roundings.bind(section.rounding)
    chosen = rounding(
        weight / spread, gram.hessian(centred=corrects, damping=DAMPING), code_levels(ready.scheme, codes)
    )
    rounded = chosen * spread
    moved = None
    if corrects and place is not None:
        holder, index = place
        bias = constant(holder.inputs[index]) if index < len(holder.inputs) else None
        moved = correct(bias, weight, rounded, *gram.means())
    return Fitted(from_rows(node, rounded, array.shape).astype(np.float32), scales, moved)
