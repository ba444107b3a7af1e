"""Labels of a data set: where they are, what form they have, whether they fit the model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlcompress.data.columns import Array, Source, spell
from mlcompress.errors import DataError
from mlcompress.recipe.sections import DataEntry

USUAL_NAMES = ("label", "y", "labels")


@dataclass(frozen=True)
class Labels:
    """All labels of a source: int64 or float32 [N] or [N, ...]."""

    values: Array
    classes: tuple[str, ...]
    """names behind the ids, for text labels and image folders"""
    name: str


def find_labels(
    entry: DataEntry, source: Source, counts: Mapping[str, int], needed: bool, where: str
) -> tuple[Labels | None, list[str], list[str]]:
    """The labels, what to say about them, and the problems, as lines.

    They are the array or column that `label` names, else `label`, `y` or `labels` unless that is a model
    input. Labels that nobody asked for and that cannot be used are left out,
    and that is said. `counts` are the
    inputs' arrays with their numbers of samples.
    """
    here = f"{where}.label"
    name = entry.label or next(
        (name for name in USUAL_NAMES if name in source.arrays and name not in counts), None
    )
    if name is None or name not in source.arrays:
        if needed:
            return None, [], [_missing(entry, source, here)]
        return None, [f"{here}: no array {name!r}; no labels are needed here"] if name else [], []
    try:
        labels = _read(source, name, set(counts.values()), here)
    except DataError as error:
        asked_for = needed or entry.label is not None
        return (None, [], list(error.lines)) if asked_for else (None, [f"{error.lines[0]} (left out)"], [])
    is_guess = entry.label is None and source.kind != "images"
    return labels, [f"{here}: labels come from {name!r}"] if is_guess else [], []


def _missing(entry: DataEntry, source: Source, here: str) -> str:
    if source.kind == "synthetic":
        return f"{here}: synthetic data has no labels; name real data"
    if source.kind == "images":
        return f"{here}: these images have no classes; make one sub-folder per class"
    wanted = (
        f"no array {entry.label!r}" if entry.label is not None else "labels are needed and none are named"
    )
    unless = (
        ", or use a metric that needs none, such as agreement" if here.startswith("data.evaluate") else ""
    )
    return f"{here}: {wanted}; the data has {source.listing()}; write `label: NAME`{unless}"


def _read(source: Source, name: str, counts: set[int], here: str) -> Labels:
    """Whole numbers as int64 ([N, 1] becomes [N]), text as ids of its sorted values, floats as float32.

    Raises DataError when the array cannot be read, has not one finite value (or row) per sample, or is of a
    strange type.
    """
    column = source.read(name)
    if not column.shape or (len(counts) == 1 and column.shape[0] not in counts):
        has = f"has {column.shape[0]} rows for {min(counts)} samples" if column.shape else "is one number"
        raise DataError(f"{here}: {name!r} {has}; give one label per sample")
    values, classes = column.whole(), source.classes
    if values.dtype.kind == "U":
        texts, values = np.unique(values, return_inverse=True)
        classes = tuple(str(text) for text in texts)
    if values.dtype.kind in "iub":
        values = values.astype(np.int64)
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    elif values.dtype.kind == "f":
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{here}: {name!r} has NaN or infinity; mend or drop those samples")
    else:
        raise DataError(f"{here}: {name!r} is {values.dtype.name}; labels are numbers or text")
    return Labels(values, classes, name)


def check_classes(labels: Labels, used: Array, output: tuple[int | str | None, ...], where: str) -> list[str]:
    """Problems of class labels with the shape of the output that they judge, as lines.

    `used` are the labels of the samples in use. Ids are compared with the number of classes for outputs [N, C
    > 1].
    """
    here, shown = f"{where}.label", f"{labels.name!r} is {spell(labels.values.dtype, labels.values.shape)}"
    if labels.values.dtype.kind != "i":
        return [f"{here}: {shown}; class labels are whole numbers, one per sample"]
    if len(output) == 2 and labels.values.ndim != 1:
        return [f"{here}: {shown}; give one class id per sample, not one column per class"]
    count = output[1] if len(output) == 2 else None
    if not isinstance(count, int) or count < 2:
        return []
    if labels.classes and len(labels.classes) != count:
        return [
            f"{here}: {len(labels.classes)} class names ({labels.classes[0]} ... {labels.classes[-1]}) "
            f"for {count} classes of the model: the ids would not mean the same; use numbers, or name all "
            f"{count} (for images an empty folder is enough)"
        ]
    outside = used[(used < 0) | (used >= count)]
    if len(outside):
        many = f"{len(outside)} of {len(used)} samples"
        return [f"{here}: label {outside[0]} is not one of the model's classes 0 ... {count - 1} ({many})"]
    return []
