"""Mode `qat`: ranges and Q/DQ as in static, then training with the rounding in place.

The trained numbers go back into what the static mode builds from: weights on their grid, their scales, the
ranges of activations. So the file has the nodes and names of a static one, and nothing is calibrated twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant, set_numbers
from mlcompress.metrics import HIGHER_IS_BETTER
from mlcompress.quantize.activations import UINT8
from mlcompress.quantize.calibrated import Calibrated, calibrate
from mlcompress.quantize.cast import channel_axes, scaled_weights
from mlcompress.quantize.deployment import gaps
from mlcompress.quantize.encode import encode
from mlcompress.quantize.integer import WEIGHTED, Layout, in_domain, lay_out, obstacle
from mlcompress.quantize.levels import widening
from mlcompress.quantize.modes import Placed, Result, calibration, float_reasons, place
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.reconstruct import fit
from mlcompress.quantize.schemes import UNSCALED, schemes
from mlcompress.quantize.static import insert_for_training
from mlcompress.quantize.storage import compress
from mlcompress.quantize.weights import largest_level, quantised
from mlcompress.registry import Choice

if TYPE_CHECKING:
    from mlcompress.train.qat import Layer, Point, QuantisedExecutor, Trained

SAMPLES = 256
"""Of the training data, where there is no calibration data of its own."""
FREEZE = 0.8
"""Moving ranges stay as they are after this share of the batches."""


def qat(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """Integers as in `static`, trained with their rounding towards the float model.

    Raises:
        UnsupportedError: the graph cannot be trained.
        DataError: no training data, or none that ranges can be taken from.
    """
    section = recipe.quantize
    _check_trainable(model, context)
    if context.calibration is None and context.train is not None:
        some = context.train.subset(np.arange(min(SAMPLES, len(context.train))))
        context = replace(context, calibration=some)
    data = calibration(context)
    ready = calibrate(model, section, kept, data)
    placed = place(ready, recipe, context)
    integer, shared = _with_own_weights(ready.base.graph, placed.integer)
    placed = replace(placed, integer=integer)
    untrained = fit(ready, integer, section, data).build(integer, "plain")[0]
    course = _Course(model, ready, placed, recipe, context)
    trained = course.run()
    result, stored = trained.build(integer, placed.form, placed.plain)
    stored.add(compress(result, placed.form))
    gap = gaps(result, course.executor, data)
    figures = _figures(recipe, context, untrained, result, course.histories)
    reasons = float_reasons(ready.base.graph, integer, kept, shared, obstacle)
    reasons |= dict.fromkeys(shared, "a layer that computes in float reads its weight too")
    details = {
        "observer": section.activations.observer.model_dump(),
        "calibration": {"samples": len(data), "synthetic": data.synthetic, "fingerprint": data.fingerprint},
        "plan": {"integer": integer, "storage": placed.form, "plain": sorted(placed.plain)},
        "qat": {**section.qat.model_dump(), "phases": course.histories, "metric": figures},
        "deployment_gap": gap,
    }
    if placed.timings:
        details["candidates_ms"] = placed.timings
    warnings = _warnings(recipe, figures)
    return Result(result, integer, stored, reasons, details, warnings)


@dataclass
class _Course:
    """The phases of training, one for each scheme."""

    model: ir.Model
    ready: Calibrated
    placed: Placed
    recipe: QuantizeRecipe
    context: Context

    def __post_init__(self) -> None:
        self.graph = graph.copy(self.ready.base)
        names = frozenset(self.placed.integer)
        layout = lay_out(self.graph.graph, lambda node: node.name in names)
        self.sources = {
            str(node.name): str(layout.roots[source].name)
            for node in layout.nodes
            if node.op_type in WEIGHTED and (source := node.inputs[0]) is not None
        }
        self.caps = _caps(layout)
        self.biases = _biases(layout)
        self.names = insert_for_training(self.graph, layout, self.ready.ranges)
        self.histories: list[dict[str, Any]] = []
        self.executor: QuantisedExecutor

    def run(self) -> Calibrated:
        """Train; gives what the deployed graph is built from."""
        section = self.recipe.quantize
        final = section.weights.chosen("qat")
        choices = [schemes.choose(name) for name in section.qat.progressive[:-1]] + [final]
        ranges, epochs = dict(self.ready.ranges), self.recipe.train.epochs
        for number, choice in enumerate(choices, 1):
            share = epochs * number // len(choices) - epochs * (number - 1) // len(choices)
            found = self._phase(choice, ranges, share)
            ranges = {**ranges, **found.ranges}
        return self._trained(found, ranges, final)

    def _phase(self, choice: Choice, ranges: Mapping[str, tuple[float, float]], epochs: int) -> "Trained":
        from mlcompress.train.lesson import training_data
        from mlcompress.train.qat import QuantisedExecutor
        from mlcompress.train.recover import finetune_losses, recover

        recipe, training = self.recipe, self.recipe.quantize.qat
        data = training_data(self.context)
        batches = epochs * -(-len(data) // recipe.train.batch_size)
        self.executor = executor = QuantisedExecutor(
            self.graph,
            self._points(ranges),
            self._layers(choice),
            learns=training.ranges == "learned",
            updates=int(FREEZE * batches),
        )
        history = recover(
            self.graph,
            self.model,
            recipe.train,
            self.context,
            epochs=epochs,
            label=f"train {choice.name}",
            evaluate=recipe.evaluate,
            losses=finetune_losses(training, self.model, data, recipe.evaluate),
            after_step=executor.hold,
            frozen=sorted(executor.initializers - set(self.ready.base.graph.initializers)),
            executor=executor,
            facts=f"{choice.model_dump_json()} {training.model_dump_json()}",
        )
        self.histories.append({"scheme": choice.name, **history.as_card()})
        return executor.result()

    def _points(self, ranges: Mapping[str, tuple[float, float]]) -> "list[Point]":
        from mlcompress.train.qat import Point

        points = []
        for name, (tensor, scale, zero) in self.names.items():
            step = float(UINT8.parameters(*ranges[name])[0])
            size, cap = self.ready.sizes[name], self.caps.get(name)
            points.append(Point(name, tensor, scale, zero, ranges[name], step, size, cap))
        return points

    def _layers(self, choice: Choice) -> "list[Layer]":
        """Weights of integer layers, then those that are stored with levels and scales."""
        from mlcompress.train.qat import Layer

        found: dict[ir.Value, Layer] = {}
        factor = widening(largest_level(choice))
        for node in self.graph.graph:
            weight = node.inputs[1] if node.name in self.sources else None
            if weight is None:
                continue
            bias = self.biases.get(str(node.name))
            mine = () if bias is None else ((bias, self.sources[str(node.name)]),)
            if weight in found:
                found[weight] = replace(found[weight], biases=found[weight].biases + mine)
                continue
            axes: tuple[int, ...] = (output_axis(node),) if self.ready.per_channel else ()
            scales = quantised(np.asarray(constant(weight)), axes, choice)[1] * np.float32(factor)
            found[weight] = Layer(str(weight.name), choice.name, scales, factor, mine)
        for weight in self._stored():
            if weight not in found:
                axes = channel_axes(weight) if self.ready.per_channel else ()
                first = encode(np.asarray(constant(weight)), axes, choice).scale
                if first is not None:
                    found[weight] = Layer(str(weight.name), choice.name, first)
        return list(found.values())

    def _stored(self) -> list[ir.Value]:
        if self.placed.form in ("plain", *UNSCALED):
            return []
        plain = self.ready.kept | set(self.placed.plain)
        keep = [node for node in self.graph.graph if node.name in plain]
        return scaled_weights(self.graph, self.ready.base.graph.initializers, keep)

    def _trained(
        self, found: "Trained", ranges: dict[str, tuple[float, float]], choice: Choice
    ) -> Calibrated:
        base = graph.copy(self.ready.base)
        for name, value in base.graph.initializers.items():
            kept = self.graph.graph.initializers.get(name)
            if kept is not None and kept.const_value is not None and kept.dtype == ir.DataType.FLOAT:
                set_numbers(value, found.weights.get(name, np.asarray(constant(kept))))
        integers = {
            str(node.inputs[1].name)
            for node in self.graph.graph
            if node.name in self.sources and node.inputs[1]
        }
        factor = np.float32(widening(largest_level(choice)))
        scales = {name: s / factor if name in integers else s for name, s in found.scales.items()}
        return replace(self.ready, base=base, ranges=ranges, scales=scales)


def _check_trainable(model: ir.Model, context: Context) -> None:
    from mlcompress.train.executor import unsupported
    from mlcompress.train.lesson import check_batch, training_data

    lines = unsupported(model)
    if lines:
        raise UnsupportedError(*(f"quantize.mode qat: {line}; use `mode: static`" for line in lines))
    check_batch(model, training_data(context), "quantize.mode qat")


def _with_own_weights(main: ir.Graph, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The integer nodes without those whose weight is also read otherwise, and the latter."""
    chosen = set(names)
    lost = []
    for node in main:
        weight = node.inputs[1] if node.name in chosen and in_domain(node, WEIGHTED) else None
        if weight is not None and not all(
            use.idx == 1 and use.node.name in chosen and output_axis(use.node) == output_axis(node)
            for use in weight.uses()
        ):
            lost.append(str(node.name))
    left = chosen - set(lost)
    return [str(node.name) for node in lay_out(main, lambda node: node.name in left).nodes], lost


def _caps(layout: Layout) -> dict[str, float]:
    """Largest step of quantisers behind a Clip, by tensor: a coarser one would keep the Clip alive."""
    caps = {}
    for root in layout.roots.values():
        maker = root.producer()
        if maker is None or not in_domain(maker, ("Clip",)) or len(maker.inputs) < 3:
            continue
        high = constant(maker.inputs[2])
        if high is not None and high.size == 1 and float(high.ravel()[0]) > 0:
            caps[str(root.name)] = float(UINT8.parameters(0.0, float(high.ravel()[0]))[0])
    return caps


def _biases(layout: Layout) -> dict[str, str]:
    """Biases that only one integer layer reads, one number a channel, by node."""
    found = {}
    for node in layout.nodes:
        bias = node.inputs[2] if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2 else None
        if bias is None or len(bias.uses()) > 1 or bias.is_graph_output():
            continue
        array, weight = np.asarray(constant(bias)), np.asarray(constant(node.inputs[1]))
        if array.size == weight.shape[output_axis(node)]:
            found[str(node.name)] = str(bias.name)
    return found


def _figures(
    recipe: QuantizeRecipe,
    context: Context,
    untrained: ir.Model,
    result: ir.Model,
    histories: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """The metric as `mode: static` has it and after training, of onnxruntime on the evaluation data.

    Without such data both are those of the validation, the former with weights rounded to the nearest.
    """
    name, evaluate = recipe.evaluate.metric, context.evaluate
    pair = [None, None] if evaluate is None else [evaluate(made) for made in (untrained, result)]
    on = "data.evaluate"
    if pair[0] is None and len(histories) == 1:
        pair, on = [histories[0]["epochs"][0].get("metric"), histories[0]["best_metric"]], "data.validation"
    if pair[0] is None or pair[1] is None:
        return None
    return {"name": name, "on": on, "untrained": pair[0], "trained": pair[1]}


def _warnings(recipe: QuantizeRecipe, figures: Mapping[str, Any] | None) -> list[str]:
    if figures is None:
        return []
    sign = 1 if HIGHER_IS_BETTER[figures["name"]] else -1
    if sign * (figures["trained"] - figures["untrained"]) > 0:
        return []
    return [
        f"quantize.qat: training did not help: {figures['name']} on {figures['on']} is "
        f"{figures['untrained']:.4f} without, {figures['trained']:.4f} with it; train longer or at another "
        "rate, or use `mode: static`"
    ]
