"""How good a model file is: onnxruntime runs it on the evaluation data, batch by batch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from mlcompress import console, metrics
from mlcompress.data.dataset import Batch, Dataset
from mlcompress.errors import DataError, ModelError
from mlcompress.measure import session as sessions
from mlcompress.measure.providers import resolve
from mlcompress.measure.session import Model
from mlcompress.recipe.sections import Evaluate


@dataclass(frozen=True)
class Metric:
    """A metric of one model. `low` and `high`: 95 % interval (Wilson for shares, normal for means), where
    there is one.

    `snr` of equal outputs is infinite, which JSON cannot hold: `as_json` gives None for it.
    """

    name: str
    value: float
    samples: int
    low: float | None = None
    high: float | None = None
    right: np.ndarray | None = field(default=None, repr=False, compare=False)
    """bool [samples] for top1, top5 and agreement: which samples were right, for `paired`."""

    @property
    def higher_is_better(self) -> bool:
        return metrics.HIGHER_IS_BETTER[self.name]

    def as_json(self) -> dict[str, Any]:
        value = self.value if np.isfinite(self.value) else None
        return {
            "name": self.name,
            "value": value,
            "samples": self.samples,
            "low": self.low,
            "high": self.high,
        }


@dataclass(frozen=True)
class Paired:
    """The same samples before and after: a drop of 0.01 that is 1 fixed and 11 broken is no noise."""

    fixed: int
    broken: int


def evaluate(
    model: Model,
    dataset: Dataset,
    settings: Evaluate,
    *,
    reference: Model | None = None,
    provider: str = "cpu",
    threads: int = 0,
) -> Metric:
    """Run `model` on all of `dataset` and judge one output.

    top1, top5 and f1 compare with integer labels. cosine, agreement and snr compare with the outputs of
    `reference`. mse compares with float labels where there are any, else with `reference`. An output [B] or
    [B, 1] counts as the probability of class 1. A model of fixed batch size is run with that; the last batch
    is filled up with its last sample, which is not judged.

    Args:
        settings: metric, name of the output and batch size.
        reference: a model of the same inputs and output.
        threads: intra-op threads; 0 for all cores.

    Raises:
        DataError: labels or reference are missing or do not fit, or the model cannot be run on the data.
        ModelError: the model cannot be loaded, has no such output, or gives NaN.
        UnsupportedError: `provider` does not run here.
    """
    if len(dataset) == 0:
        raise DataError("data.evaluate: has no samples")
    judged = _Judged(model, settings, provider, threads)
    other = _target(dataset, settings, reference, provider, threads)
    size = judged.batch_size(settings.batch_size)
    if other is not None and other.batch_size(size) != size:
        raise ModelError(
            f"{other.label}: fixed batch size differs from that of {judged.label}; export both alike"
        )
    running = metrics.start(settings.metric)
    with console.progress(f"evaluate {settings.metric}", len(dataset)) as advance:
        for first in range(0, len(dataset), size):
            kept = min(size, len(dataset) - first)
            batch = dataset.take(np.minimum(np.arange(first, first + size), len(dataset) - 1))
            target = _labels(batch) if other is None else other.run(batch)
            running.add(judged.run(batch)[:kept], target[:kept])
            advance(kept)
    found = running.value()
    return Metric(settings.metric, found.value, found.samples, found.low, found.high, found.right)


def paired(before: Metric, after: Metric) -> Paired | None:
    """How many samples one model gets right and the other does not; None for metrics that have no right and
    wrong.

    Raises:
        ValueError: the two were not evaluated on the same samples.
    """
    if before.right is None or after.right is None:
        return None
    if before.name != after.name or before.samples != after.samples:
        raise ValueError("only one metric on the same samples can be paired")
    return Paired(int((after.right & ~before.right).sum()), int((before.right & ~after.right).sum()))


class _Judged:
    """A model and the output that is looked at."""

    def __init__(self, model: Model, settings: Evaluate, provider: str, threads: int) -> None:
        self.label = sessions.label(model)
        self._session = sessions.create(model, resolve(provider), threads=threads)
        names = [value.name for value in self._session.get_outputs()]
        if settings.output is not None and settings.output not in names:
            raise ModelError(
                f"evaluate.output: {self.label} has no output '{settings.output}'; it has {', '.join(names)}"
            )
        self._index = 0 if settings.output is None else names.index(settings.output)
        self._name = names[self._index]

    def batch_size(self, wanted: int) -> int:
        """`wanted`, or the model's own where its first input with axes has a fixed first axis."""
        first = next((value.shape for value in self._session.get_inputs() if value.shape), [None])
        return int(first[0]) if isinstance(first[0], int) else wanted

    def run(self, batch: Batch) -> np.ndarray:
        """The output [B, ...] for one batch."""
        values = self._session.get_inputs()
        missing = [value.name for value in values if value.name not in batch.inputs]
        if missing:
            raise DataError(
                f"data.evaluate.inputs: nothing for the model's input '{missing[0]}'; name its array"
            )
        arrays = {value.name: _array(value, batch) for value in values}
        output = np.asarray(sessions.run(self._session, arrays, self.label)[self._index])
        if output.ndim == 0 or len(output) != len(batch.ids):
            raise ModelError(
                f"{self.label}: output '{self._name}' {list(output.shape)} has no batch axis of "
                f"{len(batch.ids)}; choose another with evaluate.output"
            )
        if output.dtype.kind not in "biuf":
            output = output.astype(np.float32)  # bfloat16 and the like
        if np.isnan(output).any():
            raise ModelError(
                f"{self.label}: output '{self._name}' has NaN; the model is broken or its input is not scaled"
            )
        return output


def _target(
    dataset: Dataset, settings: Evaluate, reference: Model | None, provider: str, threads: int
) -> _Judged | None:
    """The model to compare with, or None to compare with labels."""
    name = settings.metric
    has_targets = dataset.labels is not None and dataset.labels.dtype.kind == "f"
    if name in metrics.NEEDS_REFERENCE or (name == "mse" and not has_targets):
        if reference is None:
            hint = "give float labels" if name == "mse" else "choose a metric of labels, such as top1"
            raise DataError(
                f"evaluate.metric: {name} compares with another model's outputs and there is none; {hint}"
            )
        return _Judged(reference, settings, provider, threads)
    if not dataset.has_labels:
        raise DataError(
            f"data.evaluate: {name} needs labels and there are none; add `label:` or use metric agreement"
        )
    return None


def _labels(batch: Batch) -> np.ndarray:
    if batch.labels is None:
        raise DataError("data.evaluate: a batch without labels")
    return batch.labels


def _array(value: ort.NodeArg, batch: Batch) -> np.ndarray:
    """What one input takes of a batch; a scalar input takes the one value that all samples share."""
    array = batch.inputs[value.name]
    if value.shape or array.ndim == 0:
        return array
    if (array != array.flat[0]).any():
        raise DataError(
            f"data.evaluate.inputs.{value.name}: samples differ, and the model takes one number "
            "for a whole batch"
        )
    return np.asarray(array.reshape(-1)[0])
