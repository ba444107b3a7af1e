"""Prune: remove what matters least, and recover with the original as teacher."""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.errors import UnsupportedError
from mlcompress.measure.refit import refit
from mlcompress.prune import elements, feasible, widths
from mlcompress.prune.blocks import Layers
from mlcompress.prune.channels import Channels
from mlcompress.prune.choice import choose
from mlcompress.prune.material import Material
from mlcompress.prune.recipe import ZEROS, PruneRecipe, PruneSection
from mlcompress.prune.recovery import check_trainable, make_sparse, move, recover, settle, unimproved
from mlcompress.prune.storage import check_storage, store_zeros

NONE = {
    "channel": "all are tied to its inputs and outputs, or `skip` names them",
    "head": "no attention is recognised in it, or `skip` names it",
    "hidden": "no width that is normalised over is recognised in it, or `skip` names it",
}
"""Why no unit can go where no node stands in the way."""
PLAIN = (
    "zeros take the bytes and the time of other weights: the CPU provider gains no speed from them, and this"
    " file is smaller only when compressed, or with `storage: auto`"
)
STORED = "zeros take no bytes in this file, but the time of other weights: the CPU provider gains no speed"


def run(model: ir.Model, recipe: PruneRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Prune `model` in place by `recipe.prune`.

    Raises:
        UnsupportedError: nothing can be pruned, or fine-tuning is asked for and the graph cannot be trained.
    """
    check(model, recipe, context)
    skip, original = _skipped(model, recipe), graph.copy(model)
    prune = {**dict.fromkeys(ZEROS, _prune_elements), "layer": _prune_layers}.get(
        recipe.prune.granularity, _prune_channels
    )
    change = prune(model, original, recipe, skip, context)
    return model, change


def check(model: ir.Model, recipe: PruneRecipe, context: Context) -> None:
    """What `run` would refuse, as far as it is known before anything is ranked or trained.

    Raises:
        UnsupportedError: nothing can be pruned, fine-tuning is asked for and the graph cannot be trained, a
            target is out of reach, or zeros cannot be stored as asked.
        RecipeError: the plan cannot be read, or is that of another model.
        DataError: samples are missing.
    """
    section, skip = recipe.prune, _skipped(model, recipe)
    material = Material(model, recipe, context)
    material.check()
    if section.finetune is not None:
        check_trainable(model, context)
    if section.granularity in ZEROS:
        names, _ = _weights(model, section, skip)
        check_storage(model, names, section, context)
    elif section.granularity == "layer":
        _layers(model, section, skip, context)
    else:
        channels = _channels(model, material, skip)
        feasible.check(channels, section, model, context)


def _skipped(model: ir.Model, recipe: PruneRecipe) -> set[str]:
    return {str(node.name) for node in graph.nodes_matching(model, recipe.skip).nodes}


def _prune_channels(
    model: ir.Model, original: ir.Model, recipe: PruneRecipe, skip: Collection[str], context: Context
) -> Change:
    material = Material(original, recipe, context)
    channels = _channels(model, material, skip)
    section, before = recipe.prune, graph.parameters(model)
    if section.criterion.name == "movement":  # others look for the target before they train
        feasible.check_latency(channels, section, original, context)
    moved = move(model, material)
    wanted, found = widths.decide(channels, section, original, context)
    first = section.steps(recipe.train.epochs)[0]
    doomed = channels.doomed(first.share, wanted) if section.regularize else ([], [])
    sparser = make_sparse(model, original, recipe, context, *doomed)
    histories, refitted = [], list[str]()
    for number, step in enumerate(section.steps(recipe.train.epochs), start=1):
        refitted += _cut(model, channels, step.share, wanted, section, context)
        histories.append(
            recover(model, original, recipe, context, number=number, epochs=step.epochs, material=material)
        )
    if section.finetune is None:
        settle(model, context)
    left = channels.widths()
    gone, all_units = sum(old - new for old, new in left.values()), sum(old for old, _ in left.values())
    summary = f"{gone} of {all_units} channels removed, {before:,} -> {graph.parameters(model):,} parameters"
    warnings = [] if gone else ["nothing was removed: rounding or the guards left every family as it was"]
    warnings += widths.missed(found) + unimproved(histories)
    details = {"families": left, **found, "finetune": [history for history in histories if history]}
    details |= {"reconstructed": list(dict.fromkeys(refitted)), **_how(material, moved, sparser)}
    return Change(summary, details, channels.skipped, warnings)


def _channels(model: ir.Model, material: Material, skip: Collection[str]) -> Channels:
    recipe = material.recipe
    channels = Channels(model, material, skip, np.random.default_rng(recipe.seed))
    if not channels.families:
        raise UnsupportedError(
            f"prune: no {recipe.prune.granularity} of this model can be removed "
            f"({_first(channels.skipped) or NONE[recipe.prune.granularity]}); {_instead(model)}"
        )
    return channels


def _cut(
    model: ir.Model,
    channels: Channels,
    share: float,
    wanted: widths.Wanted | None,
    section: PruneSection,
    context: Context,
) -> list[str]:
    """One step, and what is left fitted to give what it gave before; names of the fitted layers."""
    if not section.reconstruct or context.calibration is None:
        channels.prune(share, wanted)
        return []
    before = graph.copy(model)
    return refit(model, before, channels.prune(share, wanted), context.calibration)


def _prune_elements(
    model: ir.Model, original: ir.Model, recipe: PruneRecipe, skip: Collection[str], context: Context
) -> Change:
    material = Material(original, recipe, context)
    names, skipped = _weights(model, recipe.prune, skip)
    rng, section = np.random.default_rng(recipe.seed), recipe.prune
    steps = section.steps(recipe.train.epochs)
    moved = move(model, material)
    masks = choose(model, names, material, steps[0].share, rng).masks if section.regularize else {}
    doomed = [~masks[name].reshape(-1) for name in masks]
    sparser = make_sparse(model, original, recipe, context, names, doomed)
    histories = []
    for number, step in enumerate(steps, start=1):
        chosen = choose(model, names, material, step.share, rng)
        masks = chosen.masks
        elements.apply(model, chosen)
        histories.append(
            recover(
                model,
                original,
                recipe,
                context,
                number=number,
                epochs=step.epochs,
                masks=masks,
                material=material,
            )
        )
    zeros = {name: int(mask.size - mask.sum()) for name, mask in masks.items()}
    gone, weights = sum(zeros.values()), sum(mask.size for mask in masks.values())
    stored = store_zeros(model, names, section.storage, context)
    warnings = [STORED if stored else PLAIN, *unimproved(histories)]
    details: dict[str, Any] = {"zeros": zeros, "finetune": [history for history in histories if history]}
    details |= {"stored": stored, **_how(material, moved, sparser)}
    return Change(
        f"{gone:,} of {weights:,} weights set to zero ({gone / weights:.0%})", details, skipped, warnings
    )


def _weights(
    model: ir.Model, section: PruneSection, skip: Collection[str]
) -> tuple[list[str], list[dict[str, str]]]:
    """Those that may lose elements, and why others may not."""
    prunable = elements.prunable(model, skip)
    names, undefined = elements.rankable(model, prunable, section)
    skipped = elements.left_alone(model, prunable, skip) + undefined
    if not names:
        raise UnsupportedError(
            f"prune: no weight matrix of this model can be pruned ({_first(skipped) or 'it has none'}); "
            "`mlcompress inspect` shows its layers"
        )
    return names, skipped


def _prune_layers(
    model: ir.Model, original: ir.Model, recipe: PruneRecipe, skip: Collection[str], context: Context
) -> Change:
    section, before = recipe.prune, graph.parameters(model)
    layers = _layers(model, section, skip, context)
    histories: list[dict[str, Any] | None] = []
    gone: dict[str, float] = {}
    for number, step in enumerate(section.steps(recipe.train.epochs), start=1):
        gone |= layers.prune(None if section.ratio is None else section.ratio * step.share, section.threshold)
        histories.append(recover(model, original, recipe, context, number=number, epochs=step.epochs))
    if section.finetune is None:
        settle(model, context)
    summary = (
        f"{len(gone)} of {len(layers.original)} residual layers removed, {before:,} -> "
        f"{graph.parameters(model):,} parameters"
    )
    warnings = (
        [] if gone else ["nothing was removed: the ratio rounds to no layer, or none is below the threshold"]
    )
    details = {
        "removed": [{"name": name, "score": float(f"{score:.6g}")} for name, score in gone.items()],
        "finetune": [history for history in histories if history],
    }
    return Change(summary, details, layers.skipped, warnings + unimproved(histories))


def _layers(model: ir.Model, section: PruneSection, skip: Collection[str], context: Context) -> Layers:
    layers = Layers(model, section.layer_score, skip, context.calibration)
    if not layers.original:
        raise UnsupportedError(
            "prune: this model has no residual layer x + f(x) that can be removed "
            f"({_first(layers.skipped) or 'it has no such sum'}); use granularity channel"
        )
    return layers


def _how(material: Material, moved: dict[str, Any] | None, sparser: dict[str, Any] | None) -> dict[str, Any]:
    """For the card: what the scores were measured on, and the training before the first cut."""
    found: dict[str, Any] = {"towards_sparsity": sparser, "movement": moved}
    name = material.recipe.prune.criterion.name
    found["criterion"] = {"name": name, **material.facts} if material.facts else None
    return {key: value for key, value in found.items() if value is not None}


def _instead(model: ir.Model) -> str:
    integer = sorted({node.op_type for node in model.graph if "Integer" in node.op_type})
    if integer:
        return f"it computes with {' and '.join(integer)}: prune the float model it was made from"
    return "`mlcompress inspect` shows its layers"


def _first(skipped: list[dict[str, str]]) -> str:
    """What stands in the way, the first three of it."""
    return "; ".join(f"{entry['name']}: {entry['reason']}" for entry in skipped[:3])
