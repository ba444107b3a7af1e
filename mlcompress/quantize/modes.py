"""The modes of `quantize`: static, dynamic, and float computation with smaller weights."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.graph.initializers import constant
from mlcompress.quantize import placement
from mlcompress.quantize.accuracy import worst_first
from mlcompress.quantize.activations import SLOW
from mlcompress.quantize.calibrated import Calibrated, calibrate
from mlcompress.quantize.cast import Stored, store_weights
from mlcompress.quantize.dynamic import DYNAMIC, dynamic_obstacle, insert_dynamic
from mlcompress.quantize.fuse import fold_batch_norm, fold_gemm_factors
from mlcompress.quantize.integer import WEIGHTED, in_domain, lay_out, obstacle
from mlcompress.quantize.judge import hold_accuracy
from mlcompress.quantize.recipe import QuantizeRecipe, Replay
from mlcompress.quantize.reconstruct import fit
from mlcompress.quantize.recurrent import LSTM
from mlcompress.quantize.sensitivity import output_noise
from mlcompress.quantize.smooth import smooth
from mlcompress.quantize.storage import compress

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

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
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Placed:
    """Which nodes run as integers, and how the file holds the weights of the others."""

    integer: list[str]
    form: str
    plain: list[str]
    """Nodes whose weights stay as they are."""
    timings: dict[str, float]


def place(ready: Calibrated, recipe: QuantizeRecipe, context: Context) -> Placed:
    """As `quantize.placement` says."""
    section = recipe.quantize
    form, plain, timings = str(section.storage), list[str](), dict[str, float]()
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
    return Placed(integer, form, plain, timings)


def calibration(
    context: Context, instead: str = "use `mode: dynamic` or `weight_only`, which need none"
) -> "Dataset":
    """The calibration samples, or a message that says what to add, or to do `instead`."""
    if context.calibration is None or len(context.calibration) == 0:
        raise DataError(
            "data.calibration: ranges of activations are taken from samples; add `data: {calibration: {path: "
            f"FILE.npz, samples: 512}}}}`, or {instead}"
        )
    return context.calibration


def static(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """U8S8 integers where the placement says so; other weights stored in fewer bits. `kept` nodes stay
    float."""
    section = recipe.quantize
    if section.activations.scheme == "float":
        return stored_only(model, recipe, context, kept)
    data = calibration(context)
    ready = calibrate(model, section, kept, data)
    placed = place(ready, recipe, context)
    integer, form, plain = placed.integer, placed.form, placed.plain
    ready = fit(ready, integer, section, data)
    returned, metrics, warnings = hold_accuracy(
        recipe,
        context,
        model,
        lambda: worst_first(output_noise(ready, integer, data)),
        lambda names: ready.build(set(integer) - set(names), form, names)[0],
    )
    plain = plain or returned
    result, stored = ready.build(set(integer) - set(returned), form, plain)
    stored.add(compress(result, form))
    chosen = set(integer) - set(returned)
    integer = [str(n.name) for n in lay_out(ready.base.graph, lambda node: node.name in chosen).nodes]
    reasons = float_reasons(ready.base.graph, integer, kept, returned, obstacle)
    details = {
        "observer": section.activations.observer.model_dump(),
        "activations": section.activations.scheme,
        "fitted": {
            "rounding": section.rounding.model_dump(),
            "bias_correction": section.bias_correction,
            "layers": sum(name in ready.fitted for name in integer),
        },
        **ready.changes,
        "calibration": {"samples": len(data), "synthetic": data.synthetic, "fingerprint": data.fingerprint},
        "plan": {"integer": integer, "storage": form, "plain": sorted(plain)},
        "given_back": returned,
    }
    if slow := SLOW.get(section.activations.scheme):
        warnings.append(f"quantize.activations: {slow}")
    if placed.timings:
        details["candidates_ms"] = placed.timings
    if metrics:
        details["metrics_tried"] = metrics
    return Result(result, integer, stored, reasons, details, warnings)


def dynamic(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """MatMul, Gemm and LSTM as integers without samples; other weights stored in fewer bits."""
    section = recipe.quantize
    per_channel, scheme = section.weights.granularity == "per_channel", section.weights.by_layer("dynamic")
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    details: dict[str, Any] = {}
    if (alpha := section.smoothing) is not None:
        details["smoothed"] = smooth(
            base, calibration(context, "leave `smooth` out"), kept, alpha=alpha, owned=()
        )
    able = [
        n for n in base.graph if in_domain(n, DYNAMIC) and n.name not in kept and dynamic_obstacle(n) is None
    ]

    def build(floats: Sequence[str]) -> tuple[ir.Model, Stored]:
        made = graph.copy(base)
        left = kept | set(floats)
        keep = [node for node in made.graph if node.name in left]
        insert_dynamic(made, lambda node: node.name not in left, per_channel=per_channel, scheme=scheme)
        names = base.graph.initializers
        return made, store_weights(made, section.storage, names, weights=section.weights, keep=keep)

    # Small matrices first: they save the fewest bytes, and without samples there is nothing better to rank
    # by.
    by_size = sorted(able, key=lambda node: np.asarray(constant(node.inputs[1])).size)
    ranked = [str(node.name) for node in by_size]
    returned, metrics, warnings = hold_accuracy(
        recipe, context, model, lambda: ranked, lambda names: build(names)[0]
    )
    result, stored = build(returned)
    stored.add(compress(result, section.storage))
    integer = [str(node.name) for node in able if node.name not in returned]
    reasons = float_reasons(base.graph, integer, kept, returned, dynamic_obstacle)
    if not integer:
        detail = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise UnsupportedError(
            f"quantize.mode dynamic: no MatMul, Gemm or LSTM can be integers ({detail or 'there is none'})"
            "; use `mode: static` for convolutions, or `mode: weight_only` for a smaller file"
        )
    before, after = graph.file_bytes(model), graph.file_bytes(result)
    if after >= before:
        raise UnsupportedError(
            f"quantize.mode dynamic: the file would grow from {before} to {after} bytes; "
            "use `mode: weight_only`"
        )
    details |= {"given_back": returned, "integer": integer}
    if metrics:
        details["metrics_tried"] = metrics
    return Result(result, integer, stored, reasons, details, warnings)


def stored_only(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """Weights stored in fewer bits, everything computed in float."""
    section = recipe.quantize
    result = graph.copy(model)
    fold_batch_norm(result)
    weights = list(result.graph.initializers)
    keep = [node for node in result.graph if node.name in kept]
    chosen = section.weights.model_copy(update={"scheme": section.weights.chosen(section.mode)})
    return Result(
        result,
        [],
        store_weights(result, section.storage, weights, weights=chosen, keep=keep, target=section.target),
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


def float_reasons(
    main: ir.Graph,
    integer: Collection[str],
    kept: Collection[str],
    returned: Collection[str],
    why: Callable[[ir.Node], str | None],
) -> dict[str, str]:
    """Why each node with weights stays float, by name in graph order."""
    reasons = {}
    weighted = (*WEIGHTED, *LSTM) if why is dynamic_obstacle else WEIGHTED
    for node in main:
        name, taken = str(node.name), node.name in integer
        if in_domain(node, CONTROL_FLOW):
            reasons[name] = f"layers inside {node.op_type} are left as they are"
        elif in_domain(node, NO_KERNEL) and not in_domain(node, weighted):
            instead = "; `mode: dynamic` has one" if in_domain(node, LSTM) else ""
            reasons[name] = f"{node.op_type} has no integer kernel here{instead}"
        elif in_domain(node, weighted) and not taken:
            reason = why(node) or "float: integers would not be faster here"
            reason = "given back to hold the accuracy" if name in returned else reason
            reasons[name] = "`skip` names it" if name in kept else reason
    return reasons
