"""Born-again networks (Furlanello et al. 2018): each student teaches the next of the same architecture."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from mlcompress import console, graph
from mlcompress.context import Change, Context
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.errors import DataError
from mlcompress.metrics import HIGHER_IS_BETTER

Distil = Callable[[ir.Model, DistillRecipe, Context, str], tuple[ir.Model, Change]]
"""(teacher, recipe, context, label) -> a trained student and what was done; labels are distinct in a run."""


def born_again(
    distil: Callable[[ir.Model, ir.Model, DistillRecipe, Context, str], tuple[ir.Model, Change]],
    teacher: ir.Model,
    recipe: DistillRecipe,
    context: Context,
    label: str,
) -> tuple[ir.Model, Change]:
    """The best of `distill.generations` students by the validation metric; all are in its card.

    Each begins as the recipe derives it from TEACHER, fresh weights from a seed of its own, and is taught by
    the one before. Equal metrics: the earlier wins.

    Args:
        distil: (what the student is derived from, teacher, recipe, context, label).

    Raises:
        DataError: no validation data to compare generations on. Others as `distil`.
    """
    count = recipe.distill.generations
    need_validation(context, "distill.generations")
    rows: list[dict[str, Any]] = []
    best: tuple[ir.Model, Change] | None = None
    winner, present = 0, teacher
    for number in range(1, count + 1):
        own, wanted = replace(context, seed=context.seed + number - 1), recipe
        if number > 1:
            own.teachers, wanted = (), _of_one_teacher(recipe)
        made = distil(teacher, present, wanted, own, f"{label} generation {number}")
        score = metric(made[1])
        console.say(f"generation {number} of {count}: {recipe.evaluate.metric} {score:.4g}")
        rows.append({"metric": score, **{key: made[1].details[key] for key in ("best_epoch", "epochs")}})
        if best is None or better(score, metric(best[1]), recipe):
            best, winner = made, number
        present = graph.copy(made[0])
    if best is None:
        raise ValueError("no generation was asked for")
    student, change = best
    change.details["generations"] = {"each": rows, "best": winner}
    change.summary += f"; generation {winner} of {count}"
    return student, change


def _of_one_teacher(recipe: DistillRecipe) -> DistillRecipe:
    """`recipe` with losses that ask whoever teaches: the student before is the only teacher there is."""
    losses = [loss.model_copy(update={"teachers": None}) for loss in recipe.distill.losses]
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"losses": losses})})


def need_validation(context: Context, where: str) -> None:
    """Raises DataError where there is nothing to compare students on."""
    if context.validation is None or len(context.validation) == 0:
        raise DataError(
            f"{where}: compares students on validation data; name `data.validation`, or leave"
            " `train.validation` above 0"
        )


def metric(change: Change) -> float:
    """What the best epoch had on the validation data."""
    return float(change.details["best_metric"])


def better(one: float, other: float, recipe: DistillRecipe) -> bool:
    """Whether metric `one` is strictly better than `other`."""
    return one > other if HIGHER_IS_BETTER[recipe.evaluate.metric] else one < other
