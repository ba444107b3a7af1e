"""A set of samples as batches keyed by model input. Transforms run batch by batch: memory is a batch's."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlcompress.data.columns import Array, ArrayColumn, Column, is_float
from mlcompress.data.transforms import Step
from mlcompress.errors import DataError


@dataclass(frozen=True)
class Mix:
    """Mixup: sample i of a batch became lam[i] * x[i] + (1 - lam[i]) * x[index[i]]."""

    index: Array
    """int64 [B], positions in the batch"""
    labels: Array | None
    """labels of the partners, [B] or [B, ...]"""
    lam: Array
    """float32 [B], share of the sample itself"""


@dataclass(frozen=True)
class Batch:
    """B samples, ready for the model."""

    inputs: dict[str, Array]
    """model input -> [B, ...], or the array itself for a constant"""
    labels: Array | None
    """int64 [B] class ids; or numeric [B, ...] targets"""
    ids: Array
    """int64 [B]: positions in the data set that the batch came from"""
    constants: frozenset[str] = frozenset()
    """inputs whose first axis is not the batch: augmentation leaves them as they are"""
    mix: Mix | None = None


@dataclass(frozen=True)
class Input:
    """Where the values of one model input come from."""

    column: Column
    steps: tuple[Step, ...] = ()
    recipe: tuple[Mapping[str, Any], ...] = ()
    """the steps as plain data, for the fingerprint"""
    axis: int = 0
    """where the model wants the batch: 1 for the state [2, batch, 128] of an LSTM"""

    def take(self, rows: Array) -> Array:
        batch = self.column.take(rows)
        for step in self.steps:
            batch = step(batch)
        return np.ascontiguousarray(batch)


@dataclass(frozen=True)
class Constant:
    """A model input that has one value for all samples."""

    value: Array
    repeat: tuple[int, ...] = ()
    """axes of length 1 that grow to the batch size"""

    def take(self, batch_size: int) -> Array:
        value = self.value
        for axis in self.repeat:
            value = np.repeat(value, batch_size, axis)
        return value.copy()  # so that nobody's in-place work reaches the next batch


@dataclass(frozen=True)
class Origin:
    """What is known about a data set beside its samples."""

    kind: str = "arrays"
    classes: tuple[str, ...] = ()
    """names of the label ids, where the source has them"""
    notes: tuple[str, ...] = ()
    """what was decided without being asked, to be said once"""


class Dataset:
    """Samples 0 ... len - 1. `take` and `batches` read them; nothing is kept."""

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Input],
        labels: Array | None,
        rows: Array,
        *,
        constants: Mapping[str, Constant] | None = None,
        origin: Origin | None = None,
    ) -> None:
        """`rows` int64 [N]: the row of the source behind each sample; `labels` [N, ...] are in that order."""
        self.name = name
        self.labels = labels
        self.origin = origin or Origin()
        self._inputs = dict(inputs)
        self._constants = dict(constants or {})
        self._rows = np.asarray(rows, np.int64)
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def has_labels(self) -> bool:
        return self.labels is not None

    @property
    def has_classes(self) -> bool:
        """Whether each sample has one class number."""
        return self.labels is not None and self.labels.dtype.kind in "iu" and self.labels.ndim == 1

    @property
    def rows(self) -> Array:
        """int64 [N], which the caller must not change: the row of the source behind each sample."""
        return self._rows

    @property
    def synthetic(self) -> bool:
        return self.origin.kind == "synthetic"

    def take(self, ids: Array) -> Batch:
        """The samples `ids` (int [B], positions in this data set), in that order.

        Raises DataError for a file that cannot be decoded and for NaN or infinite inputs.
        """
        ids = np.asarray(ids, np.int64)
        inputs = {name: source.take(self._rows[ids]) for name, source in self._inputs.items()}
        for name, array in inputs.items():
            self._check_finite(name, array, ids)
            inputs[name] = np.ascontiguousarray(np.moveaxis(array, 0, self._inputs[name].axis))
        unlike = {name for name, source in self._inputs.items() if source.axis}
        inputs |= {name: constant.take(len(ids)) for name, constant in self._constants.items()}
        labels = None if self.labels is None else self.labels[ids]
        return Batch(inputs, labels, ids, frozenset(self._constants) | unlike)

    def _check_finite(self, name: str, array: Array, ids: Array) -> None:
        if is_float(array.dtype) and not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(len(ids), -1).all(axis=1)
            first = int(ids[np.flatnonzero(~finite)[0]])
            raise DataError(
                f"{self.name}.inputs.{name}: NaN or infinity in sample {first}; mend or drop that sample"
            )

    def batches(
        self, batch_size: int, *, order: Array | None = None, drop_last: bool = False
    ) -> Iterator[Batch]:
        """All samples, or those of `order` (int [M]); the last batch may be smaller unless it is dropped."""
        ids = np.arange(len(self)) if order is None else np.asarray(order, np.int64)
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            if len(part) == batch_size or not drop_last:
                yield self.take(part)

    def subset(self, ids: Array) -> "Dataset":
        """The samples `ids` as a data set of their own, numbered anew from 0."""
        ids = np.asarray(ids, np.int64)
        labels = None if self.labels is None else self.labels[ids]
        return Dataset(
            self.name, self._inputs, labels, self._rows[ids], constants=self._constants, origin=self.origin
        )

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the stored content of the samples, their labels and how they are preprocessed.

        It depends on no path, file time or container: the same arrays in .npz and .npy give the same value.
        """
        self._fingerprint = self._fingerprint or self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name, source in sorted(self._inputs.items()):
            shape, dtype = list(source.column.shape[1:]), source.column.dtype.name
            _add(digest, [name, len(self), shape, dtype, list(source.recipe)])
            for piece in source.column.content(self._rows):
                digest.update(piece)
        for name, constant in sorted(self._constants.items()):
            _add_array(digest, name, constant.value)
        if self.labels is not None:
            _add_array(digest, "labels", self.labels)
        return digest.hexdigest()


def _add(digest: "hashlib._Hash", facts: list[Any]) -> None:
    digest.update(json.dumps(facts, sort_keys=True).encode())


def _add_array(digest: "hashlib._Hash", name: str, array: Array) -> None:
    _add(digest, [name, list(array.shape), array.dtype.name])
    digest.update(array.tobytes())


def from_arrays(inputs: Mapping[str, Array], labels: Array | None = None, *, name: str = "data") -> Dataset:
    """A data set over arrays [N, ...] in memory that are already what the model takes."""
    sources = {key: Input(ArrayColumn(np.asarray(array))) for key, array in inputs.items()}
    count = len(next(iter(inputs.values())))
    return Dataset(name, sources, labels, np.arange(count))


def describe(dataset: Dataset) -> dict[str, Any]:
    """Facts for the card (JSON types): samples, source, fingerprint, synthetic, classes, notes."""
    labels = dataset.labels
    are_classes = labels is not None and labels.dtype.kind in "iu"
    return {
        "samples": len(dataset),
        "source": dataset.origin.kind,
        "fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic,
        "labels": None if labels is None else len(labels),
        "classes": len(np.unique(labels)) if labels is not None and are_classes else None,
        "notes": list(dataset.origin.notes),
    }
