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
from mlcompress.data.padding import find_mask, real
from mlcompress.data.samples import batches
from mlcompress.graph.columns import from_rows, output_axis, to_columns, to_rows
from mlcompress.graph.initializers import constant
from mlcompress.measure.tapped import tapped_session
from mlcompress.quantize.activations import Range
from mlcompress.quantize.bias_correction import bias_place, correct
from mlcompress.quantize.calibrated import Calibrated, Fitted
from mlcompress.quantize.gram import Gram
from mlcompress.quantize.integer import WEIGHTED, lay_out
from mlcompress.quantize.mixed import Mixed, Scheme, scheme_of
from mlcompress.quantize.qdq_weights import bias_floor
from mlcompress.quantize.rounding import code_levels, roundings
from mlcompress.quantize.schemes import schemes
from mlcompress.quantize.weights import quantised
from mlcompress.registry import Choice

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
    masked = find_mask(ready.base, some) if layers else None
    with console.progress("fit weights", len(layers)) as advance:
        for step in _independent(ready.base.graph, layers):
            ahead = [node for node in layers if node.name not in ready.fitted]
            so_far = replace(ready, scheme=_plainly(ready.scheme, ahead))
            grams = _observe(so_far, names, step, ranges, some, masked)
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


def _plainly(scheme: Scheme, ahead: Collection[ir.Node]) -> Mixed:
    """The scheme, but quick int8 for layers that are not reached: nothing that is tapped depends on them."""
    mixed = scheme if isinstance(scheme, Mixed) else Mixed(_choice(scheme), {})
    names = [str(node.inputs[1].name) for node in ahead if node.inputs[1] is not None]
    return Mixed(mixed.default, {**mixed.layers, **dict.fromkeys(names, schemes.choose("int8"))})


def _choice(scheme: Choice | str) -> Choice:
    return schemes.choose(scheme) if isinstance(scheme, str) else scheme


def _observe(
    ready: Calibrated,
    integer: Collection[str],
    step: Sequence[ir.Node],
    ranges: Mapping[ir.Node, Range],
    data: "Dataset",
    masked: str | None,
) -> dict[ir.Node, Gram]:
    """Second moments of what the layers of `step` read."""
    made, _ = ready.build(integer, "plain")
    names = sorted({str(node.inputs[0].name) for node in step if node.inputs[0] is not None})
    inputs = {str(value.name) for value in ready.base.graph.inputs}
    sides = [_tap(model, [name for name in names if name not in inputs]) for model in (ready.base, made)]
    grams = {node: Gram() for node in step}
    for batch in batches(ready.base, data, BATCH):
        clean, noisy = ({**batch.inputs, **side(batch.inputs)} for side in sides)
        mask = None if masked is None else batch.inputs[masked]
        for node, gram in grams.items():
            name = str(node.inputs[0].name if node.inputs[0] else "")
            given = ready.activation.fake(noisy[name], *ranges[node])
            parts = [real(values, mask) for values in (clean[name], given)]
            samples = len(batch.ids) if len(parts[0]) == 1 else 1
            for pair in zip(*parts, strict=True):
                columns = [_columns(node, values, samples) for values in pair]
                gram.update(columns[0], columns[1], samples)
    return grams


def _columns(node: ir.Node, values: np.ndarray, samples: int) -> np.ndarray:
    kernel = np.asarray(constant(node.inputs[1])).shape[2:]
    return to_columns(node, values, kernel, POSITIONS * samples)


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
    scheme = scheme_of(ready.scheme, str(node.inputs[1].name if node.inputs[1] else ""))
    codes, scales = quantised(
        array, axes, scheme, floor=floor if ready.per_channel else floor.max(keepdims=True)
    )
    spread = to_rows(node, np.broadcast_to(scales.astype(np.float64), array.shape))
    rounding = roundings.bind(section.rounding)
    chosen = rounding(
        weight / spread, gram.hessian(centred=corrects, damping=DAMPING), code_levels(scheme, codes)
    )
    rounded = chosen * spread
    moved = None
    if corrects and place is not None:
        holder, index = place
        bias = constant(holder.inputs[index]) if index < len(holder.inputs) else None
        moved = correct(bias, weight, rounded, *gram.means())
    return Fitted(from_rows(node, rounded, array.shape).astype(np.float32), scales, moved)
