"""`mlcompress quantize`: check, run one mode, and say in the card what it did."""

from collections import Counter
from collections.abc import Callable, Collection

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.data.samples import take
from mlcompress.errors import UnsupportedError
from mlcompress.measure.session import Feeds
from mlcompress.quantize.kernels import check_stored, missing
from mlcompress.quantize.modes import Result, dynamic, static, stored_only
from mlcompress.quantize.qat import qat
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.refuse import refuse_quantised

Mode = Callable[[ir.Model, QuantizeRecipe, Context, frozenset[str]], Result]
MODES: dict[str, Mode] = {
    "static": static,
    "qat": qat,
    "dynamic": dynamic,
    "weight_only": stored_only,
    "cast": stored_only,
}


def run(model: ir.Model, recipe: QuantizeRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Quantise `model`, which is not changed.

    Raises:
        UnsupportedError: the model is quantised already, nothing in it can be quantised, its file would grow
            (dynamic), `accuracy` cannot hold, or onnxruntime does not expand stored weights as it should.
        DataError: samples that the recipe needs are missing.
        RecipeError: a `skip` pattern or a plan does not fit the model.
    """
    refuse_quantised(model)
    kept = frozenset(graph.skipped_nodes(model, recipe.skip))
    result = MODES[recipe.quantize.mode](model, recipe, context, kept)
    if not result.integer and not result.stored.forms:
        raise UnsupportedError(
            f"quantize.mode {recipe.quantize.mode}: nothing in this model can be quantised "
            f"({_why_nothing(model, result)})"
        )
    return result.model, _change(model, recipe, context, result)


def _change(model: ir.Model, recipe: QuantizeRecipe, context: Context, result: Result) -> Change:
    section = recipe.quantize
    before, after = len(graph.to_bytes(model)), len(graph.to_bytes(result.model))
    stored = result.stored
    kernels = check_stored(result.model, stored.codes, _feed(model, context), stored.opset).ops
    warnings = [f"quantize: the file grows from {before} to {after} bytes"] if after >= before else []
    if result.integer:
        ops = Counter(node.op_type for node in _nodes_named(model, result.integer))
        warnings += [f"quantize: {line}" for line in missing(kernels, ops)]
    convs = sum(node.op_type == "Conv" for node in _nodes_named(model, result.reasons))
    if section.mode == "dynamic" and convs:
        warnings.append(
            f"quantize: {convs} Conv nodes stay float: no fast dynamic kernel; use `mode: static`"
        )
    warnings += result.warnings
    details = {
        "mode": section.mode,
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
    scheme = section.weights.chosen(section.mode).name
    if result.integer:
        ops = Counter(node.op_type for node in _nodes_named(model, result.integer))
        listed = ", ".join(f"{count} {op}" for op, count in sorted(ops.items()))
        parts.append(f"{section.mode} int8: {listed}")
    if result.stored.forms:
        counts = Counter(result.stored.forms.values())
        listed = ", ".join(f"{count} as {form}" for form, count in sorted(counts.items()))
        parts.append(f"{scheme} weights stored: {listed}")
    return "; ".join(parts)


def _nodes_named(model: ir.Model, names: Collection[str]) -> list[ir.Node]:
    wanted = set(names)
    return [node for node in model.graph if node.name in wanted]


def _feed(model: ir.Model, context: Context) -> Feeds:
    """Inputs of the profiled run: those that latency is measured with, else samples, else seeded numbers."""
    if context.feed is not None:
        return context.feed
    for data in (context.calibration, context.evaluation, context.train):
        if data is not None and len(data) > 0:
            return take(model, data, 1)
    signature = graph.signature(model)
    return graph.example_feed(signature, graph.example_shapes(signature))


def _why_nothing(model: ir.Model, result: Result) -> str:
    reasons = result.reasons | {entry["name"]: entry["reason"] for entry in result.stored.skipped}
    if reasons:
        return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
    return f"{sum(1 for _ in model.graph)} nodes, none with a large float32 weight"
