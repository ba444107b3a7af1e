"""The recipe's metric of present weights, to choose the best epoch; `measure` judges artifacts."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mlcompress import metrics
from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.recipe.sections import Evaluate
from mlcompress.train.batches import TorchBatch, to_torch
from mlcompress.train.executor import Executor

TeacherCall = Callable[[TorchBatch], Mapping[str, Tensor]]

HIGHEST = 1000.0
"""What an infinite snr (equal outputs) counts as, in dB: JSON has no infinity, float32 never gets there."""


def needs_teacher(metric: str, data: Dataset) -> bool:
    """Whether `metric` compares with the teacher's output; mse does where there are no float labels."""
    floats = data.labels is not None and data.labels.dtype.kind == "f"
    return metric not in metrics.LABELLED and not (metric == "mse" and floats)


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

    top1, top5 and f1 compare with class labels; mse with float labels, else with the teacher; the others with
    the teacher. The definitions are those of `mlcompress.metrics`, which also judge the artifact.

    Raises:
        DataError: labels are missing or do not fit the output.
        UnsupportedError: the metric needs a teacher and there is none.
    """
    if len(data) == 0:
        raise DataError("data.validation: no samples to validate on")
    executor.eval()
    device = next(iter(executor.state_dict().values())).device
    check(section.metric, data)
    against_teacher = needs_teacher(section.metric, data)
    running = metrics.start(section.metric)
    for batch in data.batches(section.batch_size):
        ready = to_torch(batch).to(device)
        got = executor(ready.inputs)[output].float().cpu().numpy()
        if not against_teacher:
            running.add(got, batch.labels)  # type: ignore[arg-type] # has_labels was checked
        elif teacher is not None:
            running.add(got, teacher(ready)[output].float().cpu().numpy())
        else:
            raise UnsupportedError(f"evaluate.metric: {section.metric} needs a teacher or float labels")
    return min(running.value().value, HIGHEST)
