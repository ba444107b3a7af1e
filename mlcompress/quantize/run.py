"""`mlcompress quantize`: check, run one mode, and say in the card what it did."""

from collections import Counter
from collections.abc import Collection
from contextlib import nullcontext

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.mapped import spilling
from mlcompress.graph.save import is_small
from mlcompress.measure.feed import feed
from mlcompress.measure.stored import check_stored
from mlcompress.quantize.budget import Mode, run_mode
from mlcompress.quantize.compute import cast, weight_only
from mlcompress.quantize.kernels import missing
from mlcompress.quantize.modes import Result, calibration, dynamic, static
from mlcompress.quantize.qat import qat
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.refuse import refuse_quantised
from mlcompress.quantize.target import REASONS, UNTIMED, check_dequantized

MODES: dict[str, Mode] = {
    "static": static,
    "qat": qat,
    "dynamic": dynamic,
    "weight_only": weight_only,
    "cast": cast,
}


def run(model: ir.Model, recipe: QuantizeRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Quantise `model`, which is not changed.

    Raises:
        UnsupportedError: the model is quantised already, nothing in it can be quantised, its file would grow
            (dynamic), `accuracy` cannot hold, or onnxruntime does not expand stored weights as it should.
        DataError: samples that the recipe needs are missing.
        RecipeError: a `skip` pattern or a plan does not fit the model.
    """
    check(model, recipe, context)
    kept = frozenset(graph.skipped_nodes(model, recipe.skip))
    with nullcontext() if is_small(model) else spilling(context.folder):
        result = run_mode(MODES[recipe.quantize.mode], model, recipe, context, kept)
    if not result.integer and not result.stored.forms:
        raise UnsupportedError(
            f"quantize.mode {recipe.quantize.mode}: nothing in this model can be quantised "
            f"({_why_nothing(model, result)})"
        )
    return result.model, _change(model, recipe, context, result)


def check(model: ir.Model, recipe: QuantizeRecipe, context: Context) -> None:
    """Raises UnsupportedError for a model that is quantised already, DataError where samples are missing."""
    refuse_quantised(model)
    if recipe.quantize.mode == "static" and "calibration" in recipe.needs():
        calibration(context)


def _change(model: ir.Model, recipe: QuantizeRecipe, context: Context, result: Result) -> Change:
    section = recipe.quantize
    before, after = graph.file_bytes(model), graph.file_bytes(result.model)
    stored, arrays = result.stored, feed(model, context)
    check_dequantized(result.model, stored.dequantized, arrays)
    opset = None if stored.dequantized else stored.opset  # DequantizeLinear may need the newer one
    kernels = check_stored(result.model, stored.codes, arrays, opset, context.folder).ops
    warnings = [f"quantize: the file grows from {before} to {after} bytes"] if after >= before else []
    if not recipe.times_its_target:
        warnings.append(UNTIMED)
    elif result.integer and section.target == "cpu":
        ops = Counter(node.op_type for node in _nodes_named(model, result.integer))
        warnings += [f"quantize: {line}" for line in missing(kernels, ops)]
    if section.mode in ("static", "qat") and not result.integer and section.activations.scheme != "float":
        warnings.append(
            "quantize: no layer computes with integers, weights alone take fewer bits: by the rules integers "
            "would be slower here; `placement: measured` times it"
        )
    convs = sum(node.op_type == "Conv" for node in _nodes_named(model, result.reasons))
    if section.mode == "dynamic" and convs:
        warnings.append(
            f"quantize: {convs} Conv nodes stay float: no fast dynamic kernel; use `mode: static`"
        )
    warnings += result.warnings
    details = {
        "mode": section.mode,
        "target": REASONS[section.target],
        "weights": {
            "scheme": section.weights.chosen(section.mode).model_dump(),
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


def _summary(model: ir.Model, recipe: QuantizeRecipe, result: Result) -> str:
    section, parts = recipe.quantize, []
    differ = bool(result.details.get("plan", {}).get("layers"))
    scheme = "" if differ else f"{section.weights.chosen(section.mode).name} "
    if result.integer:
        ops = Counter(node.op_type for node in _nodes_named(model, result.integer))
        listed = ", ".join(f"{count} {op}" for op, count in sorted(ops.items()))
        how = f"MatMulNBits {scheme}".strip() if section.compute == "nbits" else f"{section.mode} int8"
        parts.append(f"{how}: {listed}")
    if result.stored.forms:
        counts = Counter(result.stored.forms.values())
        listed = ", ".join(f"{count} as {form}" for form, count in sorted(counts.items()))
        parts.append(f"{scheme}weights stored: {listed}")
    return "; ".join(parts)


def _nodes_named(model: ir.Model, names: Collection[str]) -> list[ir.Node]:
    wanted = set(names)
    return [node for node in model.graph if node.name in wanted]


def _why_nothing(model: ir.Model, result: Result) -> str:
    reasons = result.reasons | {entry["name"]: entry["reason"] for entry in result.stored.skipped}
    if reasons:
        return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
    return f"{sum(1 for _ in model.graph)} nodes, none with a large float32 weight"
