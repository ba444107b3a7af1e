"""What augmented texts ask of losses, teachers and data: refused before training where it is missing."""

import numpy as np
import torch

from mlcompress.data.augment import augment, check_padding
from mlcompress.data.dataset import Dataset
from mlcompress.errors import ModelError, RecipeError
from mlcompress.recipe.train import Augment, Replace
from mlcompress.train.batches import to_torch
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.executor import Executor
from mlcompress.train.objective import Objective

_BATCH = 256


def check_augmented(
    changes: list[Augment],
    objective: Objective,
    executor: Executor,
    ensemble: Ensemble | None,
    data: Dataset,
    *,
    seed: int,
    where: str,
) -> None:
    """Try `changes` on two samples, and look at what two samples do not show.

    Raises:
        DataError: they do not fit the inputs; padding that is not at the end, for `splice`.
        RecipeError: losses or teachers that know nothing of a new text; token numbers the student has not.
    """
    augment(data.take(np.arange(min(2, len(data)))), changes, (seed, 0))
    texts = [name for name in ("splice", "replace") if any(getattr(change, name) for change in changes)]
    own = [] if ensemble is None else [one.file for one in ensemble.teachers if one.train is not None]
    if texts and own:  # its tokens are others, so the same cuts and numbers make another text
        raise RecipeError(
            f"train.augment: {texts[0]} makes a new text of the student's tokens, and {own[0]} reads inputs"
            " of its own; leave out one or the other"
        )
    for number, change in enumerate(changes):
        if change.splice is not None:
            _check_splice(objective, data, change.splice, where)
        if change.replace is not None:
            _check_tokens(change.replace, executor, data, f"train.augment.{number}.replace.tokens")


def _check_splice(objective: Objective, data: Dataset, mask: str, where: str) -> None:
    lost = [*objective.labelled, *objective.remembering]
    if objective.is_confident and data.has_labels:
        lost.append("combine: confidence")
    if lost:
        told = " and ".join(lost)
        raise RecipeError(
            f"train.augment: a spliced text is no sample and has no label, which {told} of {where} need;"
            " leave out one or the other"
        )
    for batch in data.batches(_BATCH):
        check_padding(batch.inputs[mask] != 0, mask)


def _check_tokens(step: Replace, executor: Executor, data: Dataset, where: str) -> None:
    """Run the student on the largest number."""
    last = step.tokens[1] - 1
    batch = to_torch(data.take(np.zeros(1, np.int64)))
    ids = batch.inputs[step.input]
    inputs = batch.inputs | {step.input: torch.full_like(ids, last)}
    try:
        with torch.no_grad():
            executor.eval()(inputs)
    except ModelError:
        raise RecipeError(
            f"{where}: the model does not take {last} for {step.input}; end where its words do"
        ) from None
