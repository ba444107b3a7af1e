"""Training around the cuts: towards sparsity before the first, towards the original's answers after each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.dependency import Family
from mlcompress.prune.recipe import PruneFinetune, PruneRecipe

if TYPE_CHECKING:
    from mlcompress.prune.material import Material

Masks = dict[str, NDArray[np.bool_]]
"""Initializer name -> True where the weight stays; the shape of the weight."""


def recover(
    model: ir.Model,
    original: ir.Model,
    recipe: PruneRecipe,
    context: Context,
    *,
    number: int,
    epochs: int,
    masks: Masks | None = None,
    material: "Material | None" = None,
) -> dict[str, Any] | None:
    """Fine-tune `model` in place after cut `number`, as similar to `original` as it can become; the history
    for the card. None without `finetune`. `material` is told what the training moves."""
    if recipe.prune.finetune is None:
        return None
    label = f"fine-tune {number}"
    return _tune(model, original, recipe, context, epochs=epochs, label=label, masks=masks, material=material)


def move(model: ir.Model, material: "Material") -> dict[str, Any] | None:
    """The training before the first cut from which `movement` is told; None for other criteria."""
    recipe = material.recipe
    if recipe.prune.criterion.name != "movement":
        return None
    epochs = recipe.prune.epochs_before(recipe.train.epochs)
    return _tune(
        model,
        material.original,
        recipe,
        material.context,
        epochs=epochs,
        label="movement",
        masks=None,
        material=material,
    )


def _tune(
    model: ir.Model,
    original: ir.Model,
    recipe: PruneRecipe,
    context: Context,
    *,
    epochs: int,
    label: str,
    masks: Masks | None,
    material: "Material | None",
) -> dict[str, Any]:
    finetune = recipe.prune.finetune or PruneFinetune()
    from mlcompress.train import lesson
    from mlcompress.train import recover as train
    from mlcompress.train.executor import Executor
    from mlcompress.train.gradients import Movement

    executor = Executor(model, purpose="prune")
    losses = finetune.losses or train.finetune_losses(
        finetune, original, lesson.training_data(context), recipe.evaluate
    )
    follows = material is not None and recipe.prune.criterion.name == "movement"
    movement = Movement()
    stop = movement.follow(executor, list(executor.trainable)) if follows else None
    history = train.recover(
        model,
        original,
        recipe.train,
        # sums of movement are not in the state that a killed run goes on from
        replace(context, state_dir=None) if follows else context,
        epochs=epochs,
        label=label,
        evaluate=recipe.evaluate,
        losses=losses,
        after_step=_masking(executor, masks) if masks else None,
        executor=executor,
    )
    if material is not None and stop is not None:
        stop()
        material.movements = movement.sums
    return history.as_card()


def make_sparse(
    model: ir.Model,
    original: ir.Model,
    recipe: PruneRecipe,
    context: Context,
    units: Sequence[Family] | Sequence[str],
    doomed: Sequence[NDArray[np.bool_]],
) -> dict[str, Any] | None:
    """Train `model` in place with the penalty of `finetune.regularize`; None where there is none.

    Args:
        units: families, or names of weights whose every element is a unit.
        doomed: for each of them, [units], True for what the recipe would remove now.
    """
    finetune, choice = recipe.prune.finetune, recipe.prune.regularize
    if finetune is None or choice is None:
        return None
    import torch

    from mlcompress.prune.penalty import Penalty, slices, weights
    from mlcompress.train import lesson
    from mlcompress.train import recover as train
    from mlcompress.train.executor import Executor

    executor = Executor(model, purpose="prune")
    families = [unit for unit in units if isinstance(unit, Family)]
    names = [unit for unit in units if isinstance(unit, str)]
    gather = slices(executor, families) if families else weights(executor, names)
    penalty = Penalty(choice, gather, [torch.from_numpy(mask) for mask in doomed])
    losses = finetune.losses or train.finetune_losses(
        finetune, original, lesson.training_data(context), recipe.evaluate
    )
    history = train.recover(
        model,
        original,
        recipe.train,
        context,
        epochs=recipe.prune.epochs_before(recipe.train.epochs),
        label="towards sparsity",
        evaluate=recipe.evaluate,
        losses=losses,
        executor=executor,
        penalty=penalty,
        facts=choice.model_dump_json(),
    )
    return history.as_card()


def settle(model: ir.Model, context: Context) -> None:
    """Without fine-tuning, batch-norm statistics at least follow the channels that are left, where there is
    data."""
    if context.calibration is None:
        return
    from mlcompress.train.batchnorm import reestimate_bn
    from mlcompress.train.executor import unsupported

    if not unsupported(model):
        reestimate_bn(model, context.calibration)


def check_trainable(model: ir.Model, context: Context) -> None:
    """Raises UnsupportedError that names every op without a trainable form, or a batch of fixed length."""
    from mlcompress.train.executor import unsupported
    from mlcompress.train.lesson import check_batch, training_data

    lines = unsupported(model)
    if lines:
        raise UnsupportedError(
            *(f"prune.finetune: {line}; leave `finetune` out to prune without it" for line in lines)
        )
    check_batch(model, training_data(context), "prune.finetune")


def unimproved(histories: Sequence[dict[str, Any] | None]) -> list[str]:
    """Fine-tuning that changed nothing is said: its first weights compete, and were not beaten."""
    return [
        f"fine-tune {step}: no epoch was better on the validation data than the weights before it, which are "
        "kept; train longer, change train.optimizer.lr, or judge by another evaluate.metric"
        for step, history in enumerate(histories, start=1)
        if history is not None and history["best_epoch"] == 0
    ]


def _masking(executor: Any, masks: Masks) -> Callable[[], None]:
    import torch

    kept = {name: torch.from_numpy(mask) for name, mask in masks.items() if name in executor.trainable}

    def apply() -> None:
        with torch.no_grad():
            for name, mask in kept.items():
                weight = executor.trainable[name]
                weight.mul_(mask.to(weight.device))

    return apply
