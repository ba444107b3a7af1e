"""Open one entry of a recipe's `data` section for one model: everything is checked before the first batch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlcompress.data.arrays import open_path
from mlcompress.data.bind import bind, match
from mlcompress.data.callable import open_python
from mlcompress.data.columns import Array, ModelInput, Source
from mlcompress.data.dataset import Dataset, Origin
from mlcompress.data.images import geometry, open_images
from mlcompress.data.keys import check_keys, sources
from mlcompress.data.labels import USUAL_NAMES, check_classes, find_labels
from mlcompress.data.synthetic import batch_names, open_synthetic
from mlcompress.data.table import open_table
from mlcompress.errors import DataError
from mlcompress.recipe.sections import DataEntry, Transform

if TYPE_CHECKING:
    from mlcompress.graph import Signature

FIRST_LOOK = 32
"""Samples that are read and checked for NaN before any work; `Dataset.take` checks the rest as they come."""


def open_data(
    entry: DataEntry,
    signature: "Signature",
    *,
    where: str,
    labels: bool,
    seed: int,
    no_code: bool = False,
    output: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Dataset:
    """The samples of `entry`, transformed to what the model with this signature takes.

    where: the entry's place in the recipe (`data.train`), for messages.
    labels: class labels are needed; they must be ids of the classes of model output `output` (the first by
        default). Labels that are not needed are kept where they are found.
    seed: of `samples`, which draws without replacement, and of synthetic data.
    no_code: refuse `python`.
    shapes: {input: [1, 128]}, sizes of dynamic axes for synthetic data (`measure.shapes`).

    Raises DataError with all problems, UnsupportedError when an extra package is missing.
    """
    _raise(check_keys(entry, where))
    wanted = _model_inputs(signature, where)
    try:
        source = _open(entry, wanted, shapes or {}, where, seed, no_code)
    except OSError as error:  # no permission, a name too long, a loop of links
        raise DataError(f"{where}: {error.filename}: {error.strerror}") from error
    matches, problems = match(entry, source, wanted, where)
    bound = bind(matches, *_remaining(entry, source, wanted, where), batch_names(wanted), where)
    told, notes, label_problems = find_labels(entry, source, bound.counts, labels, where)
    _raise([*problems, *bound.problems, *label_problems, *_uneven(bound.counts, where)])

    notes += [
        f"{where}.inputs: array {one.array!r} is taken for input {one.tensor.name!r}, the only one"
        for one in matches
        if source.kind != "images" and one.tensor.name not in (*source.arrays, *(entry.inputs or {}))
    ]
    rows = _select(entry, next(iter(bound.counts.values())), seed, where, notes)
    values = None if told is None else told.values[rows]
    if labels and told is not None and values is not None:
        shape = next((t.shape for t in signature.outputs if t.name == output), signature.outputs[0].shape)
        problems += check_classes(told, values, shape or (), where)
    for found in bound.per_sample:
        problems += found.column.faults(rows)
    _raise(problems)
    origin = Origin(source.kind, told.classes if told is not None else (), tuple(notes))
    dataset = Dataset(where, bound.inputs, values, rows, constants=bound.constants, origin=origin)
    dataset.take(np.arange(min(FIRST_LOOK, len(dataset))))
    return dataset


def _model_inputs(signature: "Signature", where: str) -> list[ModelInput]:
    _raise([] if signature.inputs else [f"{where}: the model has no inputs to give data to"])
    _raise(
        [
            f"{where}: model input {tensor.name!r} declares no shape to check data with; export it with one"
            for tensor in signature.inputs
            if tensor.shape is None
        ]
    )
    return [ModelInput(tensor.name, tensor.dtype, tensor.shape or ()) for tensor in signature.inputs]


def _open(
    entry: DataEntry,
    inputs: Sequence[ModelInput],
    shapes: Mapping[str, Sequence[int]],
    where: str,
    seed: int,
    no_code: bool,
) -> Source:
    kind = sources(entry)[0]
    if kind == "path":
        return open_path(str(entry.path), where)
    if kind == "images":
        return open_images(entry, inputs, where)
    if kind == "table":
        return open_table(str(entry.table), _columns(entry, inputs), where)
    if kind == "python":
        return open_python(str(entry.python), entry.kwargs, where, no_code)
    return open_synthetic(entry, inputs, shapes, where, seed)


def _columns(entry: DataEntry, inputs: Sequence[ModelInput]) -> set[str]:
    """Columns of a table that may be needed."""
    named = [names if isinstance(names, list) else [names] for names in (entry.inputs or {}).values()]
    labels = [entry.label] if entry.label is not None else list(USUAL_NAMES)
    return {tensor.name for tensor in inputs} | {name for names in named for name in names} | set(labels)


def _remaining(
    entry: DataEntry, source: Source, inputs: Sequence[ModelInput], where: str
) -> tuple[list[Transform], str | None]:
    """Steps that are left for batches, and the axis order of what they begin with, if it is known."""
    steps = list(entry.transforms or [])
    if source.kind != "images":
        return steps, None
    decoded = 0 if entry.size is not None else len(geometry(entry, inputs, where))
    return steps[decoded:], "NHWC"


def _uneven(counts: Mapping[str, int], where: str) -> list[str]:
    """Arrays that do not have the same number of samples, or none at all."""
    if len(set(counts.values())) > 1:
        spelt = ", ".join(f"{name} {count}" for name, count in counts.items())
        return [f"{where}: arrays have different numbers of samples ({spelt}); the first axis counts samples"]
    return [f"{where}: no samples"] if 0 in counts.values() else []


def _select(entry: DataEntry, total: int, seed: int, where: str, notes: list[str]) -> Array:
    """Rows to use, sorted: the first `limit`, of which `samples` are drawn; numbers too large are noted."""
    for key, wanted in (("limit", entry.limit), ("samples", entry.samples)):
        if wanted is not None and wanted > total:
            notes.append(f"{where}.{key}: {wanted} asked for, {total} samples there; all of them are used")
    rows = np.arange(min(total, entry.limit or total))
    if entry.samples is not None and entry.samples < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), entry.samples, replace=False))
    return rows


def _raise(problems: list[str]) -> None:
    if problems:
        raise DataError(*problems)
