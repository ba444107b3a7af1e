"""Prune: remove what matters least, and recover with the original as teacher."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.errors import UnsupportedError
from mlcompress.prune import elements
from mlcompress.prune.channels import Channels
from mlcompress.prune.recipe import PruneRecipe, PruneSection

TIED = "all are tied to its inputs and outputs, or `skip` names them"
"""Why no channel can go where no node stands in the way."""


def run(model: ir.Model, recipe: PruneRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Prune `model` in place by `recipe.prune`.

    Raises:
        UnsupportedError: nothing can be pruned, or fine-tuning is asked for and the graph cannot be trained.
    """
    skip = {str(node.name) for node in graph.nodes_matching(model, recipe.skip).nodes}
    original = graph.copy(model)
    if recipe.prune.finetune is not None:
        _check_trainable(model)
    prune = _prune_channels if recipe.prune.granularity == "channel" else _prune_elements
    change = prune(model, original, recipe, skip, context)
    return model, change


def _prune_channels(
    model: ir.Model, original: ir.Model, recipe: PruneRecipe, skip: Collection[str], context: Context
) -> Change:
    channels = Channels(model, recipe.prune, skip, np.random.default_rng(recipe.seed))
    if not channels.families:
        raise UnsupportedError(
            f"prune: no channel of this model can be removed ({_first(channels.skipped) or TIED}); "
            f"{_instead(model)}"
        )
    before = graph.parameters(model)
    histories = []
    for step, ratio in enumerate(_ratios(recipe.prune), start=1):
        channels.prune(ratio)
        histories.append(_recover(model, original, recipe, context, step))
    if recipe.prune.finetune is None:
        _settle(model, context)
    widths = channels.widths()
    gone, all_units = sum(old - new for old, new in widths.values()), sum(old for old, _ in widths.values())
    summary = f"{gone} of {all_units} channels removed, {before:,} -> {graph.parameters(model):,} parameters"
    warnings = [] if gone else ["nothing was removed: rounding or the guards left every family as it was"]
    warnings += _unimproved(histories)
    details = {"families": widths, "finetune": [history for history in histories if history]}
    return Change(summary, details, channels.skipped, warnings)


def _prune_elements(
    model: ir.Model, original: ir.Model, recipe: PruneRecipe, skip: Collection[str], context: Context
) -> Change:
    names = elements.prunable(model, skip)
    skipped = elements.left_alone(model, names, skip)
    if not names:
        raise UnsupportedError(
            f"prune: no weight matrix of this model can be pruned ({_first(skipped) or 'it has none'}); "
            "`mlcompress inspect` shows its layers"
        )
    rng = np.random.default_rng(recipe.seed)
    histories = []
    masks: elements.Masks = {}
    for step, ratio in enumerate(_ratios(recipe.prune), start=1):
        masks = elements.choose(model, names, recipe.prune, ratio, rng)
        elements.apply(model, masks)
        histories.append(_recover(model, original, recipe, context, step, masks))
    zeros = {name: int(mask.size - mask.sum()) for name, mask in masks.items()}
    gone, weights = sum(zeros.values()), sum(mask.size for mask in masks.values())
    warnings = [
        "zeros take the bytes and the time of other weights: this file is smaller only when compressed",
        *_unimproved(histories),
    ]
    details = {"zeros": zeros, "finetune": [history for history in histories if history]}
    return Change(
        f"{gone:,} of {weights:,} weights set to zero ({gone / weights:.0%})", details, skipped, warnings
    )


def _instead(model: ir.Model) -> str:
    integer = sorted({node.op_type for node in model.graph if "Integer" in node.op_type})
    if integer:
        return f"it computes with {' and '.join(integer)}: prune the float model it was made from"
    return "`mlcompress inspect` shows its layers"


def _unimproved(histories: list[dict[str, Any] | None]) -> list[str]:
    """Fine-tuning that changed nothing is said: its first weights compete, and were not beaten."""
    return [
        f"fine-tune {step}: no epoch was better on the validation data than the weights before it, which are "
        "kept; train longer, change train.optimizer.lr, or judge by another evaluate.metric"
        for step, history in enumerate(histories, start=1)
        if history is not None and history["best_epoch"] == 0
    ]


def _first(skipped: list[dict[str, str]]) -> str:
    """What stands in the way, the first three of it."""
    return "; ".join(f"{entry['name']}: {entry['reason']}" for entry in skipped[:3])


def _ratios(section: PruneSection) -> list[float | None]:
    """The ratio to have reached after each step; a threshold is one step."""
    if section.ratio is None:
        return [None]
    steps = section.schedule.count
    return [section.ratio * step / steps for step in range(1, steps + 1)]


def _recover(
    model: ir.Model,
    original: ir.Model,
    recipe: PruneRecipe,
    context: Context,
    step: int,
    masks: elements.Masks | None = None,
) -> dict[str, Any] | None:
    """Fine-tune `model` for its share of the epochs, as similar to `original` as it can become."""
    finetune = recipe.prune.finetune
    if finetune is None:
        return None
    from mlcompress.train.executor import Executor
    from mlcompress.train.recover import finetune_losses, recover, training_data

    executor = Executor(model, purpose="prune")
    losses = finetune_losses(finetune, original, training_data(context), recipe.evaluate)
    history = recover(
        model,
        original,
        recipe.train,
        context,
        epochs=_epochs(recipe, step),
        label=f"fine-tune {step}",
        evaluate=recipe.evaluate,
        losses=losses,
        after_step=_masking(executor, masks) if masks else None,
        executor=executor,
    )
    return history.as_card()


def _epochs(recipe: PruneRecipe, step: int) -> int:
    """`train.epochs` is for the whole stage: each step has an equal share, the last ones what does not
    divide."""
    steps = len(_ratios(recipe.prune))
    return recipe.train.epochs * step // steps - recipe.train.epochs * (step - 1) // steps


def _masking(executor: Any, masks: elements.Masks) -> Callable[[], None]:
    import torch

    kept = {name: torch.from_numpy(mask) for name, mask in masks.items() if name in executor.trainable}

    def apply() -> None:
        with torch.no_grad():
            for name, mask in kept.items():
                weight = executor.trainable[name]
                weight.mul_(mask.to(weight.device))

    return apply


def _settle(model: ir.Model, context: Context) -> None:
    """Without fine-tuning, batch-norm statistics at least follow the channels that are left, where there is
    data."""
    if context.calibration is None:
        return
    from mlcompress.train.batchnorm import reestimate_bn
    from mlcompress.train.executor import unsupported

    if not unsupported(model):
        reestimate_bn(model, context.calibration)


def _check_trainable(model: ir.Model) -> None:
    from mlcompress.train.executor import unsupported

    lines = unsupported(model)
    if lines:
        raise UnsupportedError(
            *(f"prune.finetune: {line}; leave `finetune` out to prune without it" for line in lines)
        )
