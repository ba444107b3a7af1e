"""`mlcompress quantize`: the four modes, and what the card says of them."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.quantize import placement
from mlcompress.quantize.accuracy import give_back, worst_first
from mlcompress.quantize.calibrated import Calibrated, calibrate
from mlcompress.quantize.cast import Stored, store_weights
from mlcompress.quantize.dynamic import DYNAMIC, dynamic_obstacle, insert_dynamic
from mlcompress.quantize.fuse import fold_gemm_factors
from mlcompress.quantize.integer import WEIGHTED, in_domain, lay_out, obstacle
from mlcompress.quantize.kernels import check_integer_kernels, missing
from mlcompress.quantize.recipe import QuantizeRecipe, Replay
from mlcompress.quantize.refuse import refuse_quantised, skipped_nodes

NO_KERNEL = ("ConvTranspose", "LSTM", "GRU", "RNN")
"""Ops with weights that have no integer kernel here."""
CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclass
class _Result:
    """A finished graph and the facts that its card needs."""

    model: ir.Model
    integer: list[str]
    stored: Stored
    reasons: dict[str, str] = field(default_factory=dict)
    """Weighted node that stays float: why."""
    details: dict[str, Any] = field(default_factory=dict)


def run(model: ir.Model, recipe: QuantizeRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Quantise `model`, which is not changed.

    Raises:
        UnsupportedError: the model is quantised already, nothing in it can be quantised, its file would grow
            (dynamic), or `accuracy` cannot hold.
        DataError: samples that the recipe needs are missing.
        RecipeError: a `skip` pattern or a plan does not fit the model.
    """
    refuse_quantised(model)
    kept = skipped_nodes(model, recipe.skip)
    modes: dict[str, Callable[[ir.Model, QuantizeRecipe, Context, frozenset[str]], _Result]] = {
        "static": _static,
        "dynamic": _dynamic,
        "weight_only": _stored_only,
        "cast": _stored_only,
    }
    result = modes[recipe.quantize.mode](model, recipe, context, kept)
    if not result.integer and not result.stored.forms:
        raise UnsupportedError(
            f"quantize.mode {recipe.quantize.mode}: nothing in this model can be quantised ({_why_nothing(model, result)})"
        )
    return result.model, _change(model, recipe, context, result)


# ---------------------------------------------------------------- modes


def _static(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> _Result:
    section, data = recipe.quantize, context.calibration
    if data is None or len(data) == 0:
        raise DataError(
            "data.calibration: static quantisation takes the ranges of activations from samples; add `data: "
            "{calibration: {path: FILE.npz, samples: 512}}`, or use `mode: dynamic` or `weight_only`, which need none"
        )
    ready = calibrate(model, section, kept, data)
    form, plain, timings = section.form, list[str](), dict[str, float]()
    if isinstance(section.placement, Replay):
        plan = placement.read_plan(section.placement.plan)
        form, plain = plan["storage"], plan["plain"]
        integer = placement.replay(ready.base.graph, plan["integer"], section.placement.plan)
    elif section.placement == "all":
        integer = [str(node.name) for node in lay_out(ready.base.graph, ready.allowed).nodes]
    elif section.placement == "measured":
        integer, timings = _fastest(ready, form, context)
    else:
        integer = placement.rules(ready.base.graph, ready.allowed, ready.sizes)
    returned, metrics = _hold_accuracy(
        recipe,
        context,
        model,
        worst_first(ready.noise(integer, data)) if section.accuracy is not None else [],
        lambda names: ready.build(set(integer) - set(names), form, names)[0],
    )
    plain = plain or returned
    result, stored = ready.build(set(integer) - set(returned), form, plain)
    chosen = set(integer) - set(returned)
    integer = [str(n.name) for n in lay_out(ready.base.graph, lambda node: node.name in chosen).nodes]
    reasons = _float_reasons(ready.base.graph, integer, kept, returned, obstacle)
    details = {
        "observer": section.activations.observer.model_dump(),
        "calibration": {"samples": len(data), "synthetic": data.synthetic, "fingerprint": data.fingerprint},
        "plan": {"integer": integer, "storage": form, "plain": sorted(plain)},
        "given_back": returned,
    }
    if timings:
        details["candidates_ms"] = timings
    if metrics:
        details["metrics_tried"] = metrics
    return _Result(result, integer, stored, reasons, details)


def _dynamic(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> _Result:
    section = recipe.quantize
    per_channel = section.weights.granularity == "per_channel"
    base = graph.copy(model)
    fold_gemm_factors(base)
    able = [
        n for n in base.graph if in_domain(n, DYNAMIC) and n.name not in kept and dynamic_obstacle(n) is None
    ]

    def build(floats: Sequence[str]) -> tuple[ir.Model, Stored]:
        made = graph.copy(base)
        left = kept | set(floats)
        keep = [node for node in made.graph if node.name in left]
        insert_dynamic(made, lambda node: node.name not in left, per_channel=per_channel)
        return made, store_weights(made, section.form, per_channel=per_channel, keep=keep)

    # Small matrices first: they save the fewest bytes, and without samples there is nothing better to rank by.
    by_size = sorted(
        able, key=lambda n: n.inputs[1].const_value.size if n.inputs[1] and n.inputs[1].const_value else 0
    )
    ranked = [str(node.name) for node in by_size]
    returned, metrics = _hold_accuracy(recipe, context, model, ranked, lambda names: build(names)[0])
    result, stored = build(returned)
    integer = [str(node.name) for node in able if node.name not in returned]
    reasons = _float_reasons(base.graph, integer, kept, returned, dynamic_obstacle)
    if not integer:
        detail = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise UnsupportedError(
            f"quantize.mode dynamic: no MatMul or Gemm can run as integers{f' ({detail})' if detail else ''}; "
            "use `mode: static` for convolutions, or `mode: weight_only` for a smaller file"
        )
    before, after = len(graph.to_bytes(model)), len(graph.to_bytes(result))
    if after >= before:
        raise UnsupportedError(
            f"quantize.mode dynamic: the file would grow from {before} to {after} bytes; use `mode: weight_only`"
        )
    details: dict[str, Any] = {"given_back": returned, "integer": integer}
    return _Result(
        result, integer, stored, reasons, details | ({"metrics_tried": metrics} if metrics else {})
    )


def _stored_only(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> _Result:
    section = recipe.quantize
    result = graph.copy(model)
    keep = [node for node in result.graph if node.name in kept]
    per_channel = section.weights.granularity == "per_channel"
    return _Result(result, [], store_weights(result, section.form, per_channel=per_channel, keep=keep))


# ---------------------------------------------------------------- choices


def _fastest(ready: Calibrated, form: str, context: Context) -> tuple[list[str], dict[str, float]]:
    """The placement whose whole graph is fastest, and milliseconds of all candidates."""
    if context.latency is None:
        raise UnsupportedError("quantize.placement: `measured` needs a machine to measure on; use `rules`")
    choices = placement.candidates(ready.base.graph, ready.allowed, ready.sizes)
    graphs = [ready.build(nodes, form)[0] for nodes in choices.values()]
    timings = dict(zip(choices, context.latency(graphs), strict=True))
    best = min(timings, key=lambda name: timings[name])
    return choices[best], {name: round(value, 6) for name, value in timings.items()}


def _hold_accuracy(
    recipe: QuantizeRecipe,
    context: Context,
    model: ir.Model,
    ranked: Sequence[str],
    build: Callable[[Sequence[str]], ir.Model],
) -> tuple[list[str], list[float]]:
    """Layers to give back for `quantize.accuracy`, and the metrics measured on the way."""
    limit, evaluate = recipe.quantize.accuracy, context.evaluate
    if limit is None:
        return [], []
    sign = -1.0 if recipe.evaluate.metric == "mse" else 1.0

    def metric(made: ir.Model) -> float:
        value = evaluate(made) if evaluate is not None else None
        if value is None:
            raise DataError(
                "data.evaluate: quantize.accuracy needs samples to measure on; add `data: {evaluate: {path: FILE.npz}}`"
            )
        return value

    before = metric(model)

    def holds(value: float) -> bool:
        if limit.max_drop is not None:
            return sign * (before - value) <= limit.max_drop
        return limit.min_metric is None or value >= limit.min_metric

    return give_back(ranked, build, metric, holds)


def _float_reasons(
    main: ir.Graph,
    integer: Collection[str],
    kept: Collection[str],
    returned: Collection[str],
    why: Callable[[ir.Node], str | None],
) -> dict[str, str]:
    """Why each node with weights stays float, by name in graph order."""
    reasons = {}
    for node in main:
        name, taken = str(node.name), node.name in integer
        if in_domain(node, NO_KERNEL):
            reasons[name] = f"{node.op_type} has no integer kernel here"
        elif in_domain(node, CONTROL_FLOW):
            reasons[name] = f"layers inside {node.op_type} are left as they are"
        elif in_domain(node, WEIGHTED) and not taken:
            reason = why(node) or "integers would not be faster here"
            reason = "given back to hold the accuracy" if name in returned else reason
            reasons[name] = "`skip` names it" if name in kept else reason
    return reasons


# ---------------------------------------------------------------- what the card says


def _change(model: ir.Model, recipe: QuantizeRecipe, context: Context, result: _Result) -> Change:
    section = recipe.quantize
    before, after = len(graph.to_bytes(model)), len(graph.to_bytes(result.model))
    kernels = check_integer_kernels(result.model, _feed(result.model, context))
    warnings = [f"quantize: the file grows from {before} to {after} bytes"] if after >= before else []
    if result.integer:
        ops = Counter(node.op_type for node in _nodes_named(model, result.integer))
        warnings += [f"quantize: {line}" for line in missing(kernels, ops)]
    details = {
        "mode": section.mode,
        "weights": {
            "scheme": "fp16" if section.mode == "cast" else "int8",
            "granularity": section.weights.granularity,
        },
        "integer_nodes": len(result.integer),
        "stored": dict(sorted(result.stored.forms.items())),
        "kernels": kernels,
        "bytes": {"before": before, "after": after},
        **result.details,
    }
    skipped = [{"name": name, "reason": reason} for name, reason in result.reasons.items()]
    return Change(_summary(model, recipe, result), details, skipped + result.stored.skipped, warnings)


def _summary(model: ir.Model, recipe: QuantizeRecipe, result: _Result) -> str:
    parts = []
    if result.integer:
        ops = Counter(node.op_type for node in _nodes_named(model, result.integer))
        listed = ", ".join(f"{count} {op}" for op, count in sorted(ops.items()))
        parts.append(f"{recipe.quantize.mode} int8: {listed}")
    if result.stored.forms:
        form = next(iter(result.stored.forms.values()))
        parts.append(f"{len(result.stored.forms)} weights stored as {form}, computed in float")
    return "; ".join(parts)


def _nodes_named(model: ir.Model, names: Collection[str]) -> list[ir.Node]:
    wanted = set(names)
    return [node for node in model.graph if node.name in wanted]


def _feed(model: ir.Model, context: Context) -> dict[str, np.ndarray]:
    """One sample for the profiled run."""
    for data in (context.calibration, context.evaluation, context.train):
        if data is not None and len(data) > 0:
            return dict(data.take(np.arange(1)).inputs)
    signature = graph.signature(model)
    return dict(graph.example_feed(signature, graph.example_shapes(signature)))


def _why_nothing(model: ir.Model, result: _Result) -> str:
    if result.reasons:
        return "; ".join(f"{name}: {reason}" for name, reason in list(result.reasons.items())[:3])
    return f"{sum(1 for _ in model.graph)} nodes, none with a large float32 weight"
