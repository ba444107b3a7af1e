"""All that training one graph with another needs, made and tried on two samples: no step is taken yet."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.recipe.train import TrainSection
from mlcompress.train.augmented import check_augmented
from mlcompress.train.batches import to_torch
from mlcompress.train.device import check_settings
from mlcompress.train.ensemble import Ensemble, Running
from mlcompress.train.executor import Executor
from mlcompress.train.freeze import freeze
from mlcompress.train.losses import LossEntry
from mlcompress.train.objective import Objective
from mlcompress.train.teacher import Teacher


@dataclass(frozen=True)
class Lesson:
    """A student that can be trained, and what it is to learn."""

    executor: Executor
    frozen: list[str]
    """Initializers that `train.freeze` keeps as they are."""
    objective: Objective
    online: Teacher | Running | None
    """What gives the teachers' values; None where no loss asks for any."""
    warnings: list[str]


def begin(
    student: ir.Model,
    teacher: ir.Model,
    settings: TrainSection,
    context: Context,
    *,
    losses: Sequence[LossEntry],
    where: str,
    ensemble: Ensemble | None = None,
    frozen: Collection[str] = (),
    executor: Executor | None = None,
) -> Lesson:
    """Arguments as of `train.recover.learn`.

    Raises:
        UserError: ops that cannot be trained, no samples or labels, a loss that cannot be computed on the
            first two samples.
    """
    data = training_data(context)
    held = context.validation
    check_settings(settings, len(data), has_validation=held is not None and len(held) > 0)
    check_batch(student, data, where)
    trained = executor or Executor(student, purpose=where)
    kept = freeze(trained, settings.freeze, frozen)
    objective = Objective(losses, student, teacher, where=f"{where}.losses", ensemble=ensemble)
    if objective.labelled and not data.has_labels:
        names = " and ".join(objective.labelled)
        raise DataError(f"{where}.losses: {names} needs labels; name the `label` of data.train, or drop it")
    check_augmented(settings.augment, objective, trained, ensemble, data, seed=context.seed, where=where)
    online = _online(teacher, ensemble, objective, settings, context.seed)
    objective.taught_by(online)
    warnings = _prepare(objective, trained, data, settings, context.seed)
    return Lesson(trained, kept, objective, online, warnings)


def training_data(context: Context) -> Dataset:
    """`context.train`, or a message that says what to add."""
    if context.train is None or len(context.train) == 0:
        raise DataError("data.train: training needs samples; add `data: {train: {path: FILE.npz}}`")
    return context.train


def check_batch(model: ir.Model, data: Dataset, where: str) -> None:
    """Raise UnsupportedError, in words of the setting `where`, when `model` takes batches of one length only.

    A step averages over the samples of a batch, and the last batches of a pass may be shorter.
    """
    two, three = (data.take(np.zeros(count, np.int64)).inputs for count in (2, 3))
    for tensor in graph.signature(model).inputs:
        lengths = zip(tensor.shape or (), two[tensor.name].shape, three[tensor.name].shape, strict=False)
        if any(isinstance(declared, int) and one != other for declared, one, other in lengths):
            raise UnsupportedError(
                f"{where}: input {tensor.name} is {list(tensor.shape or ())}, a batch of fixed length, and"
                " training needs a free one; export the model with a dynamic batch axis"
            )


def _online(
    teacher: ir.Model,
    ensemble: Ensemble | None,
    objective: Objective,
    settings: TrainSection,
    seed: int,
) -> Teacher | Running | None:
    values = objective.teacher_values
    if not values:
        return None
    if ensemble is None:
        return Teacher(teacher, values, threads=settings.threads)
    return ensemble.start(values, threads=settings.threads, changes=settings.augment, seed=seed)


def _prepare(
    objective: Objective, executor: Executor, data: Dataset, settings: TrainSection, seed: int
) -> list[str]:
    """Make the adapters of the losses and check all of them on two samples; warnings for the card."""
    batch = to_torch(data.take(np.arange(min(2, len(data)))))
    with torch.no_grad():
        outputs = executor.eval()(batch.inputs, objective.student_values)
    mixed = any(change.mixup is not None for change in settings.augment)
    objective.prepare(outputs, batch, samples=len(data), seed=seed, mixed=mixed)
    return objective.warnings(outputs, settings.batch_size)
