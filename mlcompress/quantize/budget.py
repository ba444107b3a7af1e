"""`quantize.budget` and `quantize.weights.layers`: schemes of single weights, found or repeated."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import RecipeError, UnsupportedError
from mlcompress.quantize.allocation import Option, allocate, options_of
from mlcompress.quantize.cast import READERS
from mlcompress.quantize.fuse import fold_batch_norm, fold_gemm_factors
from mlcompress.quantize.modes import Result
from mlcompress.quantize.recipe import QuantizeRecipe, Replay
from mlcompress.quantize.rounding import roundings
from mlcompress.quantize.schemes import schemes
from mlcompress.registry import Choice

Mode = Callable[[ir.Model, QuantizeRecipe, Context, frozenset[str]], Result]

ATTEMPTS = 6
"""Sizes are predicted weight by weight; fitted weights and layers given back differ a little or a lot."""
PROBE_SAMPLES = 4
"""Calibration samples of the run that only tells how many bytes the rest of the file has."""


def run_mode(
    mode: Mode, model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]
) -> Result:
    """Run a mode with the schemes that the recipe names for single weights, a plan holds, or a budget needs.

    Raises:
        UnsupportedError: the budget cannot be met; the message has the smallest size that can.
        RecipeError: `weights.layers` or the plan does not fit the model.
    """
    section = recipe.quantize
    plan = section.placement.plan if isinstance(section.placement, Replay) else None
    layers = named(model, section.weights.layers) if plan is None else planned(model, plan, section.mode)
    if plan is not None or section.budget is None:
        result = mode(model, with_layers(recipe, layers), context, kept)
        limit = None if section.budget is None else section.budget.limit(graph.file_bytes(model))
        if limit is not None and (size := graph.file_bytes(result.model)) > limit:
            raise UnsupportedError(
                f"quantize.budget: the plan gives {size:,} bytes, {limit:,} are allowed; leave the plan out"
            )
        return _noted(result, layers)
    return _within(mode, model, recipe, context, kept)


def with_layers(recipe: QuantizeRecipe, layers: Mapping[str, Choice]) -> QuantizeRecipe:
    """The recipe with these schemes, by exact name of the weight."""
    section = recipe.quantize
    weights = section.weights.model_copy(update={"layers": dict(layers)})
    return recipe.model_copy(update={"quantize": section.model_copy(update={"weights": weights})})


def named(model: ir.Model, patterns: Mapping[str, Choice]) -> dict[str, Choice]:
    """The weights that patterns (as those of `skip`) select, and their schemes; later patterns win.

    A pattern that is the name of an initializer means that one alone. Raises RecipeError for a pattern that
    selects nothing.
    """
    found: dict[str, Choice] = {}
    lines = []
    for pattern, scheme in patterns.items():
        if pattern in model.graph.initializers:
            found[pattern] = scheme
            continue
        matches = graph.nodes_matching(model, [pattern])
        if matches.unmatched:
            lines.append(graph.no_match(model, pattern, "quantize.weights.layers"))
        for node in matches.nodes:
            for index in READERS.get(node.op_type, ()):
                value = node.inputs[index] if index < len(node.inputs) else None
                if value is not None and value.is_initializer():
                    found[str(value.name)] = scheme
    if lines:
        raise RecipeError(*lines)
    return found


def planned(model: ir.Model, path: str, mode: str) -> dict[str, Choice]:
    """`change.details.plan.layers` of a card. Raises RecipeError where there are none that fit."""
    where = f"quantize.placement.plan: {path}"
    try:
        plan = json.loads(Path(path).read_text(encoding="utf-8"))["change"]["details"]["plan"]
        held = plan.get("layers", {}) if mode in ("static", "qat") else plan["layers"]
        layers = {str(name): _choice(options) for name, options in held.items()}
    except FileNotFoundError:
        raise RecipeError(f"{where}: no such file; name the card (OUTPUT.json) of an earlier run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RecipeError(f"{where}: holds no plan; name the card of an earlier run of {mode}") from None
    lost = sorted(name for name in layers if name not in model.graph.initializers)
    if lost:
        raise RecipeError(f"{where}: this model has no weight {lost[0]!r}; the plan belongs to another model")
    return layers


def _choice(options: Mapping[str, Any]) -> Choice:
    return schemes.choose(**options)


def _within(
    mode: Mode, model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]
) -> Result:
    section, budget = recipe.quantize, recipe.quantize.budget
    if budget is None:
        raise ValueError("no budget")
    before = graph.file_bytes(model)
    limit = budget.limit(before)
    base = graph.copy(model)
    fold_batch_norm(base)
    if section.mode != "weight_only":
        fold_gemm_factors(base)
    keep = [node for node in base.graph if node.name in kept]
    options = options_of(base, section.weights, budget.over, keep, context.calibration)
    if not options:
        raise UnsupportedError("quantize.budget: no weight in this model can have another scheme")
    rest = _least(mode, model, recipe, context, kept, options, limit)
    size = 0
    for _ in range(ATTEMPTS):
        chosen = allocate(options, limit - rest)
        layers = {name: option.scheme for name, option in chosen.items()}
        result = mode(model, with_layers(recipe, layers), context, kept)
        size = graph.file_bytes(result.model)
        if size <= limit:
            noted = _noted(result, layers)
            facts = {name: _facts(option) for name, option in chosen.items()}
            noted.details |= {"bits": facts, "budget": {"limit": limit, "bytes": size}}
            return noted
        rest = max(rest + size - limit, size - sum(option.bytes for option in chosen.values()))
    why = "; quantize.accuracy gives layers back to float: loosen one of them" if section.accuracy else ""
    raise UnsupportedError(f"quantize.budget: {size:,} bytes, {limit:,} are allowed{why}")


def _least(
    mode: Mode,
    model: ir.Model,
    recipe: QuantizeRecipe,
    context: Context,
    kept: frozenset[str],
    options: Mapping[str, list[Option]],
    limit: int,
) -> int:
    """Bytes of everything but the weights, from the smallest file there is; refuses a limit below that."""
    chosen = allocate(options, 0)
    layers = {name: option.scheme for name, option in chosen.items()}
    section = recipe.quantize
    plainly: dict[str, Any] = {"accuracy": None}
    if section.mode == "static":
        plainly |= {"rounding": roundings.choose("nearest"), "bias_correction": False}
    if section.placement == "measured":
        plainly["placement"] = "rules"
    draft = recipe.model_copy(update={"quantize": section.model_copy(update=plainly)})
    if (data := context.calibration) is not None:
        context = replace(context, calibration=data.subset(np.arange(min(PROBE_SAMPLES, len(data)))))
    result = mode(model, with_layers(draft, layers), context, kept)
    size = graph.file_bytes(result.model)
    if size > limit:
        raise UnsupportedError(
            f"quantize.budget: {limit:,} bytes are allowed, the smallest file has {size:,}; allow more, or "
            "add schemes of fewer bits to `quantize.budget.over`"
        )
    return size - sum(option.bytes for option in chosen.values())


def _facts(option: Option) -> dict[str, Any]:
    """One row of `change.details.bits`."""
    return {**option.scheme.model_dump(), "bytes": option.bytes, "noise": float(f"{option.noise:.4g}")}


def _noted(result: Result, layers: Mapping[str, Choice]) -> Result:
    """The schemes in the card, where a plan can repeat them."""
    if layers:
        plan = result.details.setdefault("plan", {})
        plan["layers"] = {name: scheme.model_dump() for name, scheme in sorted(layers.items())}
    return result
