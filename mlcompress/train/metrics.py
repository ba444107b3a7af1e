"""The recipe's metric of present weights, to choose the best epoch; `measure` judges artifacts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric, MeanSquaredError, SumMetric
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, MulticlassAccuracy, MulticlassF1Score

from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.recipe.sections import Evaluate
from mlcompress.train.batches import TorchBatch, to_torch
from mlcompress.train.executor import Executor

TeacherCall = Callable[[TorchBatch], Mapping[str, Tensor]]
Update = Callable[[Tensor, Tensor], None]

_BY_LABEL = {"top1", "top5", "f1"}


def higher_is_better(metric: str) -> bool:
    """True for all metrics but errors."""
    return metric != "mse"


def needs_teacher(metric: str, data: Dataset) -> bool:
    """Whether `metric` compares with the teacher's output; mse does where there are no float labels."""
    floats = data.labels is not None and data.labels.dtype.kind == "f"
    return metric not in _BY_LABEL and not (metric == "mse" and floats)


def check(metric: str, data: Dataset) -> None:
    """Raise DataError when `metric` needs labels that the data does not have."""
    if not needs_teacher(metric, data) and not data.has_labels:
        raise DataError(
            f"evaluate.metric: {metric} needs labels, and the data has none; use agreement or cosine"
        )


@torch.no_grad()
def score(
    executor: Executor, data: Dataset, section: Evaluate, output: str, teacher: TeacherCall | None = None
) -> float:
    """Metric of graph output `output` over all samples; the executor is left in eval mode.

    top1, top5, f1 (macro): against integer labels. mse: against float labels, else the teacher. Against the
    teacher: agreement (share of samples with the same first class), cosine (mean over samples), snr (dB,
    10 log10(sum r^2 / sum (r - y)^2) over all elements). A one-column output is the probability of class 1.
    The definitions are those of `measure`.

    Raises:
        DataError: the metric needs labels that the data does not have.
        UnsupportedError: a class metric of an output that is not [batch, classes] or [batch, 1].
    """
    executor.eval()
    device = next(iter(executor.state_dict().values())).device
    check(section.metric, data)
    against_teacher = needs_teacher(section.metric, data)
    total: tuple[Update, Callable[[], float]] | None = None
    for batch in data.batches(section.batch_size):
        ready = to_torch(batch).to(device)
        got = executor(ready.inputs)[output].float()
        if against_teacher:
            if teacher is None:
                raise UnsupportedError(f"evaluate.metric: {section.metric} needs a teacher or float labels")
            wanted = teacher(ready)[output]
        else:
            wanted = ready.labels  # type: ignore[assignment] # has_labels was checked
        total = total or _metric(section.metric, got)
        total[0](got.cpu(), wanted.cpu())
    if total is None:
        raise DataError("data: no samples to validate on")
    return total[1]()


def _metric(name: str, example: Tensor) -> tuple[Update, Callable[[], float]]:
    """How to add a batch, and how to read the result."""
    mean = MeanMetric()
    if name == "mse":
        error = MeanSquaredError()
        return _of(error, lambda got, wanted: error.update(got.reshape(-1), wanted.reshape(-1)))
    if name == "snr":
        return _snr()
    if name == "cosine":
        return _of(
            mean,
            lambda got, wanted: mean.update(
                functional.cosine_similarity(got.flatten(1), wanted.flatten(1), dim=1)
            ),
        )
    if example.ndim > 2:
        raise UnsupportedError(
            f"evaluate.metric: {name} of an output {list(example.shape)} cannot guide training;"
            " use mse or cosine"
        )
    if name == "agreement":
        return _of(mean, lambda got, wanted: mean.update((_first(got) == _first(wanted)).float()))
    if example.ndim == 1 or example.shape[1] == 1:
        binary = BinaryF1Score() if name == "f1" else BinaryAccuracy()
        return _of(binary, lambda got, wanted: binary.update(_first(got), wanted.reshape(-1)))
    classes = example.shape[1]
    if name == "f1":
        return _of(MulticlassF1Score(num_classes=classes, average="macro"))
    return _of(
        MulticlassAccuracy(
            num_classes=classes, top_k=1 if name == "top1" else min(5, classes), average="micro"
        )
    )


def _first(scores: Tensor) -> Tensor:
    """The class that ranks first; of one column, whether it is above 0.5."""
    if scores.ndim == 1 or scores.shape[1] == 1:
        return (scores.reshape(-1) > 0.5).long()
    return scores.argmax(1)


def _of(metric: Any, update: Update | None = None) -> tuple[Update, Callable[[], float]]:
    return update or metric.update, lambda: float(f"{float(metric.compute()):.7g}")  # what float32 holds


def _snr() -> tuple[Update, Callable[[], float]]:
    signal, noise = SumMetric(), SumMetric()

    def update(got: Tensor, wanted: Tensor) -> None:
        reference = wanted.reshape(got.shape).double()
        signal.update(reference.square().sum())
        noise.update((reference - got.double()).square().sum())

    return update, lambda: float(10 * torch.log10(signal.compute() / noise.compute().clamp_min(1e-30)))
