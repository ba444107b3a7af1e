"""Metrics that are fed batch by batch and hold a few numbers, never the outputs.

The same for judging an artifact and for choosing an epoch, so that the two figures can be compared. Written
in numpy because torchmetrics needs torch, and judging a model does not; the tests compare the two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mlcompress.errors import DataError

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

HIGHER_IS_BETTER = {
    "top1": True,
    "top5": True,
    "f1": True,
    "mse": False,
    "cosine": True,
    "agreement": True,
    "snr": True,
}

LABELLED = frozenset({"top1", "top5", "f1"})
"""Metrics that compare with class labels."""

NEEDS_REFERENCE = frozenset({"cosine", "agreement", "snr"})
"""Metrics of the difference to another model's outputs, which need no labels."""


@dataclass(frozen=True)
class Value:
    """A metric over all batches. `low` and `high` are a 95 % interval, None where there is no simple one."""

    value: float
    samples: int
    """What was judged: samples, or positions where a sample has many (tokens, pixels)."""
    low: float | None = None
    high: float | None = None
    right: np.ndarray | None = field(default=None, repr=False, compare=False)
    """bool [samples]: which were right, for paired counts; top1 and agreement only."""


class Running(Protocol):
    """A metric in the making."""

    def add(self, output: np.ndarray, target: np.ndarray) -> None:
        """One batch: `output` [B, ...] of the model, `target` [B, ...] labels or the reference's output."""

    def value(self) -> Value:
        """The metric over all that was added."""


def start(name: str) -> Running:
    """An empty metric of a name that `evaluate.metric` allows."""
    return _RUNNING[name]()


def wilson(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927): (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 +
    z^2/n)."""
    p, square = successes / count, z * z / count
    middle = p + square / 2
    half = z * math.sqrt(p * (1 - p) / count + square / (4 * count))
    # The formula gives exactly 0 and 1 at the ends; rounding would leave 1e-17.
    low = 0.0 if successes == 0 else (middle - half) / (1 + square)
    high = 1.0 if successes == count else (middle + half) / (1 + square)
    return low, high


def predictions(output: np.ndarray) -> np.ndarray:
    """Class numbers: arg-max over classes, the first on a tie; a single output counts as a probability, 1
    above 0.5.

    Args:
        output: [B, C] scores -> int64 [B]; [B] or [B, 1] probabilities of class 1 -> int64 [B]; else class
            axis last.
    """
    if is_single(output):
        return (output.reshape(len(output)) > 0.5).astype(np.int64)
    return np.asarray(output.argmax(axis=-1), np.int64)


def is_single(output: np.ndarray) -> bool:
    """One probability per sample instead of a score per class."""
    return output.ndim == 1 or output.shape[1:] == (1,)


class _Right:
    """Share of predictions that equal the target class."""

    def __init__(self, find: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._find = find
        self._right: list[np.ndarray] = []

    def add(self, output: np.ndarray, target: np.ndarray) -> None:
        self._right.append(self._find(output, target))

    def value(self) -> Value:
        right = np.concatenate(self._right)
        low, high = wilson(int(right.sum()), right.size)
        return Value(float(right.mean()), right.size, low, high, right)


def _top1(output: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scores, labels = _classes_last(output, labels)
    return np.ravel(predictions(scores) == labels)


def _top5(output: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Right when fewer than five classes come before the label's, by score and, on a tie, by number."""
    scores, labels = _classes_last(output, labels)
    classes = scores.shape[-1]
    if is_single(scores) or classes < 6:
        raise DataError(
            f"evaluate.metric: top5 needs more than 5 classes and the output has {classes}; use top1"
        )
    own = np.take_along_axis(scores, labels[..., None], axis=-1)
    tied_before = (scores == own) & (np.arange(classes) < labels[..., None])
    return np.ravel(((scores > own) | tied_before).sum(axis=-1) < 5)


def _same(output: np.ndarray, reference: np.ndarray) -> np.ndarray:
    _check_shapes(output, reference)
    return np.ravel(predictions(output) == predictions(reference))


class _F1:
    """2 tp / (2 tp + fp + fn), averaged over the classes that occur in labels or predictions (macro).

    With a single output: of class 1 alone, which is what F1 of a detector means.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((3, 0), np.int64)  # tp, predicted, labelled
        self._single = False

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        scores, labels = _classes_last(output, labels)
        self._single = is_single(scores)
        classes = 2 if self._single else scores.shape[-1]
        guess, labels = np.ravel(predictions(scores)), np.ravel(labels)
        counts = [np.bincount(kind, minlength=classes) for kind in (guess[guess == labels], guess, labels)]
        self._counts = np.stack(counts) + (self._counts if self._counts.size else 0)

    def value(self) -> Value:
        right, predicted, labelled = self._counts
        occurs = predicted + labelled > 0
        per_class = 2 * right / np.maximum(predicted + labelled, 1)
        value = per_class[1] if self._single else per_class[occurs].mean()
        return Value(float(value), int(labelled.sum()))


class _Mean:
    """Mean over samples of a number per sample, with the normal interval mean -+ z s / sqrt(n)."""

    def __init__(self, per_sample: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._per_sample = per_sample
        self._values: list[np.ndarray] = []

    def add(self, output: np.ndarray, target: np.ndarray) -> None:
        _check_shapes(output, target)
        flat = (output.reshape(len(output), -1), target.reshape(len(output), -1))
        self._values.append(self._per_sample(*(part.astype(np.float64) for part in flat)))

    def value(self) -> Value:
        values = np.concatenate(self._values)
        mean = float(values.mean())
        if values.size < 2:
            return Value(mean, values.size)
        half = Z95 * float(values.std(ddof=1)) / math.sqrt(values.size)
        return Value(mean, values.size, mean - half, mean + half)


def _squared_error(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(output - target).mean(axis=1))


def _cosine(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Two zero vectors are alike (1), a zero and another one are not (0)."""
    lengths = np.linalg.norm(output, axis=1), np.linalg.norm(target, axis=1)
    product = lengths[0] * lengths[1]
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    dot = (output * target).sum(axis=1)
    found: np.ndarray = np.where(product > 0, dot / np.where(product > 0, product, 1), both_zero)
    return found


class _Snr:
    """10 log10(sum of reference^2 / sum of (reference - output)^2) over all values, in dB; infinite when
    equal."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._samples = 0

    def add(self, output: np.ndarray, reference: np.ndarray) -> None:
        _check_shapes(output, reference)
        wanted = reference.astype(np.float64)
        self._signal += float(np.square(wanted).sum())
        self._noise += float(np.square(wanted - output).sum())
        self._samples += len(output)

    def value(self) -> Value:
        if self._noise == 0:
            return Value(math.inf, self._samples)
        if self._signal == 0:
            return Value(-math.inf, self._samples)
        return Value(10 * math.log10(self._signal / self._noise), self._samples)


def _classes_last(output: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [..., C] and int64 labels [...]; segmentation outputs [B, C, H, W] get their class axis moved.

    Raises:
        DataError: labels are no class numbers of this output.
    """
    numbers = _whole(labels)
    if is_single(output):
        shape, classes = output.shape[:1], 2
        numbers = numbers.reshape(shape) if numbers.size == len(output) else numbers
    else:
        if (
            output.ndim > 2
            and numbers.shape != output.shape[:-1]
            and numbers.shape == (len(output), *output.shape[2:])
        ):
            output = np.moveaxis(output, 1, -1)
        shape, classes = output.shape[:-1], output.shape[-1]
        if len(shape) == 1 and numbers.shape == (len(output), 1):
            numbers = numbers[:, 0]
    if numbers.shape != shape:
        raise DataError(
            f"labels: {list(labels.shape[1:])} per sample do not fit the output "
            f"{list(output.shape[1:])}; give one class number for each prediction"
        )
    if numbers.size and (numbers.min() < 0 or numbers.max() >= classes):
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        last = classes - 1
        raise DataError(f"labels: {wrong} is no class of the output, which has 0 to {last}; mend the labels")
    return output, numbers


def _whole(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    numbers = labels.astype(np.int64)
    if labels.dtype.kind != "f" or not np.array_equal(numbers, labels):
        raise DataError("labels: are not whole numbers; class metrics need class numbers, targets need mse")
    return numbers


def _check_shapes(output: np.ndarray, target: np.ndarray) -> None:
    if output.shape != target.shape:
        raise DataError(
            f"evaluate: the output {list(output.shape[1:])} and what it is compared with "
            f"{list(target.shape[1:])} differ in shape; choose another `output`"
        )


_RUNNING: dict[str, Callable[[], Running]] = {
    "top1": lambda: _Right(_top1),
    "top5": lambda: _Right(_top5),
    "f1": _F1,
    "mse": lambda: _Mean(_squared_error),
    "cosine": lambda: _Mean(_cosine),
    "agreement": lambda: _Right(_same),
    "snr": _Snr,
}
