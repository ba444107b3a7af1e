"""Training with every combination of a few options; the best by the validation metric is kept."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from mlcompress import console
from mlcompress.context import Change, Context
from mlcompress.distill.generations import Distil, better, metric, need_validation
from mlcompress.distill.grid import trials
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.train.losses import LossEntry


def sweep(
    distil: Distil, teacher: ir.Model, recipe: DistillRecipe, context: Context, label: str
) -> tuple[ir.Model, Change]:
    """The student of the best trial; all trials are in its card. Equal metrics: the earlier wins.

    With `sweep.epochs` trials are that short, and the best is trained again for `train.epochs`.

    Raises:
        DataError: no validation data to compare trials on. Others as `distil`.
    """
    section = recipe.distill.sweep
    if section is None:
        return distil(teacher, recipe, context, label)
    need_validation(context, "distill.sweep")
    grid = trials(recipe.distill.losses, section.values)
    rows: list[dict[str, Any]] = []
    best: tuple[ir.Model, Change] | None = None
    winner = 0
    for number, (values, losses) in enumerate(grid, start=1):
        made = distil(teacher, _with(recipe, losses, section.epochs), context, f"{label} trial {number}")
        score = metric(made[1])
        told = ", ".join(f"{key} {value:g}" for key, value in values.items())
        console.say(f"trial {number} of {len(grid)}: {told}: {recipe.evaluate.metric} {score:.4g}")
        trained = made[1].details["epochs"]
        rows.append(
            {**values, "metric": score, "best_epoch": made[1].details["best_epoch"], "epochs": len(trained)}
        )
        if best is None or better(score, metric(best[1]), recipe):
            best, winner = made, number
    if best is None or section.epochs not in (None, recipe.train.epochs):
        losses = grid[winner - 1][1]
        best = distil(teacher, _with(recipe, losses, None), context, f"{label} best")
    student, change = best
    change.details["sweep"] = {"trials": rows, "best": winner}
    change.summary += f"; trial {winner} of {len(grid)}"
    return student, change


def _with(recipe: DistillRecipe, losses: Sequence[LossEntry], epochs: int | None) -> DistillRecipe:
    """`recipe` with other losses, and as many epochs as it says where `epochs` is None."""
    train = recipe.train if epochs is None else recipe.train.model_copy(update={"epochs": epochs})
    section = recipe.distill.model_copy(update={"losses": list(losses)})
    return recipe.model_copy(update={"distill": section, "train": train})
