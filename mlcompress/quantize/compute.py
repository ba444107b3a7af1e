"""The modes without integer activations: floats all over, MatMulNBits, or half precision."""

from typing import Any

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import ModelError, UnsupportedError
from mlcompress.measure import providers, session
from mlcompress.measure.feed import feed
from mlcompress.quantize.cast import Stored, store_weights
from mlcompress.quantize.fuse import fold_batch_norm, fold_gemm_factors
from mlcompress.quantize.half import HALVES, halve, large_values
from mlcompress.quantize.integer import WEIGHTED, in_domain
from mlcompress.quantize.mixed import Mixed
from mlcompress.quantize.modes import NO_KERNEL, Result, stored_only
from mlcompress.quantize.nbits import has_kernel, insert_nbits, nbits_obstacle
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.recipe_compute import nbits_block
from mlcompress.registry import Choice


def weight_only(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """Weights in fewer bits: in the file alone, or (`compute: nbits`) where MatMul and Gemm read them too."""
    if recipe.quantize.compute == "nbits":
        return _packed(model, recipe, kept)
    return stored_only(model, recipe, context, kept)


def cast(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """Weights in 16 bits: in the file alone, or with the graph computing in them (`compute: fp16`)."""
    if recipe.quantize.compute in HALVES:
        return _halved(model, recipe, context, kept)
    return stored_only(model, recipe, context, kept)


def _packed(model: ir.Model, recipe: QuantizeRecipe, kept: frozenset[str]) -> Result:
    """MatMulNBits where that can be; other weights stored as without it."""
    section, weights = recipe.quantize, recipe.quantize.weights
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    made, block, scheme = graph.copy(base), nbits_block(weights), weights.by_layer(section.mode)
    integer = insert_nbits(
        made,
        lambda node: node.name not in kept,
        scheme,
        block=block,
        symmetric=weights.symmetric,
    )
    keep = [node for node in made.graph if node.name in kept]
    chosen = weights.model_copy(update={"scheme": weights.chosen(section.mode)})
    stored = store_weights(made, section.storage, base.graph.initializers, weights=chosen, keep=keep)
    reasons = {
        str(node.name): _why(node, kept, scheme)
        for node in base.graph
        if in_domain(node, (*WEIGHTED, *NO_KERNEL)) and node.name not in integer
    }
    details: dict[str, Any] = {"compute": section.compute, "block": block, "integer": integer}
    warnings = (
        [] if integer else ["quantize.compute: no MatMul or Gemm can be MatMulNBits: all compute in float"]
    )
    return Result(made, integer, stored, reasons, details, warnings)


def _why(node: ir.Node, kept: frozenset[str], scheme: Choice | Mixed) -> str:
    if node.name in kept:
        return "`skip` names it"
    if (reason := nbits_obstacle(node)) is not None:
        return reason
    return (
        "its weight has another scheme than int8 and int4"
        if not has_kernel(node, scheme)
        else "it shares its weight with a node that stays float"
    )


def _halved(model: ir.Model, recipe: QuantizeRecipe, context: Context, kept: frozenset[str]) -> Result:
    """16-bit computation, float32 at the ends and where `halve` says why.

    Raises UnsupportedError when the provider has no kernels for it.
    """
    kind, result = recipe.quantize.compute, graph.copy(model)
    fold_batch_norm(result)
    graph.infer_shapes(result)
    found = halve(result, kind, kept, large_values(result, kind, feed(model, context)))
    stored = Stored(forms=dict.fromkeys(found.weights, kind))
    _check_half(result, recipe, context)
    warnings = []
    if _provider(recipe).ort_name == providers.CPU.ort_name:
        warnings.append(
            f"quantize.compute: the CPU provider computes {kind} in float32 between Casts (ResNet-14 1.12, "
            "EfficientNet-Lite0 1.17 of fp32's time): `compute: float` has the same bytes without; for a GPU "
            "name it in measure.providers, or set gate.min_speedup"
        )
    details: dict[str, Any] = {"compute": kind, "half_nodes": len(found.nodes)}
    return Result(result, [], stored, found.reasons, details, warnings)


def _provider(recipe: QuantizeRecipe) -> providers.Provider:
    """The one whose latency counts."""
    return providers.resolve(recipe.measure.providers[0])


def _check_half(result: ir.Model, recipe: QuantizeRecipe, context: Context) -> None:
    """Can the provider load it? onnxruntime looks for kernels when it creates a session."""
    kind, provider = recipe.quantize.compute, _provider(recipe)
    try:
        with graph.source(result, context.folder) as source:
            session.create(source, provider, threads=1)
    except (ModelError, UnsupportedError) as problem:
        raise UnsupportedError(
            f"quantize.compute {kind}: {provider.name} cannot run it: {problem}; use `compute: float`, which "
            f"stores {kind} and computes in float32"
        ) from None
