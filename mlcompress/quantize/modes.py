"""The modes of `quantize`: static, dynamic, and float computation with smaller weights."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.graph.initializers import constant
from mlcompress.quantize import placement
from mlcompress.quantize.accuracy import give_back, worst_first
from mlcompress.quantize.calibrated import Calibrated, calibrate
from mlcompress.quantize.cast import Stored, store_weights
from mlcompress.quantize.dynamic import DYNAMIC, dynamic_obstacle, insert_dynamic
from mlcompress.quantize.fuse import fold_batch_norm, fold_gemm_factors
from mlcompress.quantize.integer import WEIGHTED, in_domain, lay_out, obstacle
from mlcompress.quantize.recipe import QuantizeRecipe, Replay

NO_KERNEL = ("ConvTranspose", "LSTM", "GRU", "RNN")
"""Ops with weights that have no integer kernel here."""
SAME_SPEED = 0.98
"""A candidate must beat the rules by more than noise to be taken instead."""
CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclass
class Result:
    """A finished graph and the facts that its card needs."""

    model: ir.Model
    integer: list[str]
    stored: Stored
    reasons: dict[str, str] = field(default_factory=dict)
    """Weighted node that stays float: why."""
    details: dict[str, Any] = field(default_factory=dict)


def static(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """U8S8 integers where the placement says so; other weights stored in fewer bits. `kept` nodes stay
    float."""
    section, data = recipe.quantize, context.calibration
    if data is None or len(data) == 0:
        raise DataError(
            "data.calibration: static quantisation takes the ranges of activations from samples; add `data: "
            "{calibration: {path: FILE.npz, samples: 512}}`, or use `mode: dynamic` or `weight_only`, "
            "which need none"
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
        lambda: worst_first(ready.noise(integer, data)),
        lambda names: ready.build(set(integer) - set(names), form, names)[0],
    )
    plain = plain or returned
    result, stored = ready.build(set(integer) - set(returned), form, plain)
    chosen = set(integer) - set(returned)
    integer = [str(n.name) for n in lay_out(ready.base.graph, lambda node: node.name in chosen).nodes]
    reasons = float_reasons(ready.base.graph, integer, kept, returned, obstacle)
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
    return Result(result, integer, stored, reasons, details)


def dynamic(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """MatMul and Gemm as integers without samples; other weights stored in fewer bits."""
    section = recipe.quantize
    per_channel = section.weights.granularity == "per_channel"
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    able = [
        n for n in base.graph if in_domain(n, DYNAMIC) and n.name not in kept and dynamic_obstacle(n) is None
    ]

    def build(floats: Sequence[str]) -> tuple[ir.Model, Stored]:
        made = graph.copy(base)
        left = kept | set(floats)
        keep = [node for node in made.graph if node.name in left]
        insert_dynamic(made, lambda node: node.name not in left, per_channel=per_channel)
        weights = base.graph.initializers
        return made, store_weights(made, section.form, weights, per_channel=per_channel, keep=keep)

    # Small matrices first: they save the fewest bytes, and without samples there is nothing better to rank
    # by.
    by_size = sorted(able, key=lambda node: np.asarray(constant(node.inputs[1])).size)
    ranked = [str(node.name) for node in by_size]
    returned, metrics = _hold_accuracy(recipe, context, model, lambda: ranked, lambda names: build(names)[0])
    result, stored = build(returned)
    integer = [str(node.name) for node in able if node.name not in returned]
    reasons = float_reasons(base.graph, integer, kept, returned, dynamic_obstacle)
    if not integer:
        detail = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise UnsupportedError(
            f"quantize.mode dynamic: no MatMul or Gemm can run as integers ({detail or 'there is none'}); "
            "use `mode: static` for convolutions, or `mode: weight_only` for a smaller file"
        )
    before, after = len(graph.to_bytes(model)), len(graph.to_bytes(result))
    if after >= before:
        raise UnsupportedError(
            f"quantize.mode dynamic: the file would grow from {before} to {after} bytes; "
            "use `mode: weight_only`"
        )
    details: dict[str, Any] = {"given_back": returned, "integer": integer}
    return Result(result, integer, stored, reasons, details | ({"metrics_tried": metrics} if metrics else {}))


def stored_only(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """Weights stored as int8 or fp16, everything computed in float."""
    section = recipe.quantize
    result = graph.copy(model)
    fold_batch_norm(result)
    weights = list(result.graph.initializers)
    keep = [node for node in result.graph if node.name in kept]
    per_channel = section.weights.granularity == "per_channel"
    return Result(
        result, [], store_weights(result, section.form, weights, per_channel=per_channel, keep=keep)
    )


def _fastest(ready: Calibrated, form: str, context: Context) -> tuple[list[str], dict[str, float]]:
    """The placement whose whole graph is fastest (the rules' own unless beaten), and milliseconds of all."""
    if context.latency is None:
        raise UnsupportedError("quantize.placement: `measured` needs a machine to measure on; use `rules`")
    choices = placement.candidates(ready.base.graph, ready.allowed, ready.sizes)
    graphs = [ready.build(nodes, form)[0] for nodes in choices.values()]
    timings = dict(zip(choices, context.latency(graphs), strict=True))
    best = min(timings, key=lambda name: timings[name])
    if timings[best] > SAME_SPEED * timings["rules"]:
        best = "rules"
    return choices[best], {name: round(value, 6) for name, value in timings.items()}


def _hold_accuracy(
    recipe: QuantizeRecipe,
    context: Context,
    model: ir.Model,
    rank: Callable[[], Sequence[str]],
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
                "data.evaluate: quantize.accuracy needs samples to measure on; "
                "add `data: {evaluate: {path: FILE.npz}}`"
            )
        return value

    before = metric(model)

    def holds(value: float) -> bool:
        if limit.max_drop is not None:
            return sign * (before - value) <= limit.max_drop
        return limit.min_metric is None or value >= limit.min_metric

    return give_back(rank, build, metric, holds)


def float_reasons(
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
            reason = why(node) or "float: integers would not be faster here"
            reason = "given back to hold the accuracy" if name in returned else reason
            reasons[name] = "`skip` names it" if name in kept else reason
    return reasons
