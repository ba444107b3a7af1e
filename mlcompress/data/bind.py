"""Arrays of a source matched to model inputs by name, and checked against them before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlcompress.data.columns import Column, ModelInput, Source, axes, is_float, name_of, spell
from mlcompress.data.dataset import Constant, Input
from mlcompress.data.synthetic import batch_names
from mlcompress.data.table import stack
from mlcompress.data.transforms import Form, Misfit, plan, unused
from mlcompress.errors import DataError
from mlcompress.recipe.sections import DataEntry, Transform

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Match:
    """A model input, the array found for it, and whether that array is one value for all samples."""

    tensor: ModelInput
    array: str
    column: Column
    is_constant: bool


def match(
    entry: DataEntry, source: Source, inputs: Sequence[ModelInput], where: str
) -> tuple[list[Match], list[str]]:
    """One match per model input, or the problems that prevent it, as lines."""
    chosen = dict(entry.inputs or {})
    problems = _unknown(chosen, inputs, where)
    found: list[tuple[ModelInput, str, Column]] = []
    for tensor in inputs:
        names = chosen.get(tensor.name) or _default_name(tensor, source, inputs, entry.label)
        listed = names if isinstance(names, list) else [names]
        absent = [name for name in listed if name not in source.arrays]
        if absent:
            advice = _advice(tensor, source, inputs, entry.label)
            problems.append(_absent(tensor, absent[0], source, tensor.name in chosen, advice, where))
            continue
        try:
            found.append((tensor, ", ".join(listed), _read(tensor, listed, source, where)))
        except DataError as error:
            problems += error.lines
    rows = [column.shape[0] for tensor, _, column in found if tensor.shape and column.shape]
    batch = batch_names(inputs)
    return [
        Match(tensor, name, column, _is_constant(tensor, column, bool(batch), rows[0] if rows else 0))
        for tensor, name, column in found
    ], problems


def _unknown(chosen: dict[str, Any], inputs: Sequence[ModelInput], where: str) -> list[str]:
    listed = ", ".join(str(tensor) for tensor in inputs)
    known = {tensor.name for tensor in inputs}
    return [
        f"{where}.inputs.{name}: no such model input; the model has {listed}"
        for name in chosen
        if name not in known
    ]


def _default_name(tensor: ModelInput, source: Source, inputs: Sequence[ModelInput], label: str | None) -> str:
    """The input's own name; for a model of one input, the only array beside the labels.

    For image folders `image`, where only one input can be meant.
    """
    pictures = [other.name for other in inputs if len(other.shape) == 4]
    if source.kind == "images" and pictures == [tensor.name]:
        return "image"
    others = [name for name in source.arrays if name != label]
    is_only = len(inputs) == len(others) == 1 and source.kind != "table"
    return others[0] if is_only else tensor.name


def _absent(tensor: ModelInput, name: str, source: Source, is_chosen: bool, advice: str, where: str) -> str:
    kind = "column" if source.kind == "table" else "array"
    if is_chosen:
        own = f"; write `inputs: {{{tensor.name}: {tensor.name}}}`" if tensor.name in source.arrays else ""
        return f"{where}.inputs.{tensor.name}: no {kind} {name!r}; the data has {source.listing()}{own}"
    return f"{where}.inputs: no {kind} for model input {tensor}; the data has {source.listing()}; {advice}"


def _advice(tensor: ModelInput, source: Source, inputs: Sequence[ModelInput], label: str | None) -> str:
    """What to do about an input that nothing is found for."""
    batch = batch_names(inputs)
    if not tensor.shape or (batch and isinstance(tensor.shape[0], int)):
        axis = batch_axis(tensor, batch)
        each = ("samples", *tensor.shape[:axis], *tensor.shape[axis + 1 :])
        samples = f", or one a sample: {spell(tensor.dtype, each)}" if axis else ""
        return f"add {tensor.name!r}, one {spell(tensor.dtype, tensor.shape)} for all samples{samples}"
    taken = {"label", "labels", "y", label, *(other.name for other in inputs)}
    free = [name for name in source.arrays if name not in taken]
    if source.kind == "table":
        return f"write `inputs: {{{tensor.name}: [{free[0] if free else 'NAME'}, ...]}}`"
    if not free:
        return f"add an array {tensor.name!r}"
    return f"write `inputs: {{{tensor.name}: {free[0]}}}`"


def _read(tensor: ModelInput, names: list[str], source: Source, where: str) -> Column:
    if source.kind != "table":
        return source.read(names[0])
    column = stack(source, names, tensor.dtype, f"{where}.inputs.{tensor.name}")
    if len(tensor.shape) == 1 and len(names) == 1:
        return type(column)(column.array[:, 0])
    return column


def _is_constant(tensor: ModelInput, column: Column, has_free_batch: bool, rows: int) -> bool:
    """An input without a batch axis: a scalar, or a static first axis that the whole array fits.

    In a model whose batch is fixed everywhere, arrays that are as long as the first input's hold samples.
    """
    if not tensor.shape:
        return True
    is_whole = isinstance(tensor.shape[0], int) and fits(column.shape, tensor.shape)
    return is_whole and (has_free_batch or column.shape[0] != rows)


@dataclass(frozen=True)
class Bound:
    """Matches turned into what a data set reads, with the problems met on the way."""

    inputs: dict[str, Input]
    constants: dict[str, Constant]
    per_sample: list[Match]
    counts: dict[str, int]
    """array -> number of samples"""
    problems: list[str]


def bind(
    matches: list[Match], steps: list[Transform], order: str | None, batch: set[str | None], where: str
) -> Bound:
    """Inputs and constants of a data set. `order`: NCHW or NHWC where the stored axis order is known."""
    per_sample = [found for found in matches if not found.is_constant]
    counts = {found.array: found.column.shape[0] for found in per_sample if found.column.shape}
    bound = Bound({}, {}, per_sample, counts, _idle_steps(steps, per_sample, where))
    for found in matches:
        try:
            if found.is_constant:
                bound.constants[found.tensor.name] = _constant(found, batch, where)
            else:
                bound.inputs[found.tensor.name] = _input(found, steps, order, batch, where)
        except DataError as error:
            bound.problems.extend(error.lines)
    if matches and not per_sample:
        bound.problems.append(f"{where}: all model inputs have one value for all samples; there is no data")
    return bound


def _idle_steps(steps: list[Transform], matches: list[Match], where: str) -> list[str]:
    if not matches:
        return []  # reported as missing inputs
    idle = unused(steps, [found.tensor for found in matches])
    names = [next(iter(steps[place].model_fields_set)) for place in idle]
    return [f"{where}.transforms: {name} changes no input of this model; remove it" for name in names]


def fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Same rank, and equal wherever the model's size is static."""
    return len(shape) == len(wanted) and all(
        size == need for size, need in zip(shape, wanted, strict=True) if isinstance(need, int)
    )


def _constant(found: Match, batch: set[str | None], where: str) -> Constant:
    """The constant behind a match. Raises DataError when dtype, shape or values do not fit."""
    tensor, column = found.tensor, found.column
    here = f"{where}.inputs.{tensor.name}"
    if column.dtype != tensor.dtype or not fits(column.shape, tensor.shape):
        raise DataError(
            f"{here}: {found.array!r} is {spell(column.dtype, column.shape)}, the model takes one "
            f"{spell(tensor.dtype, tensor.shape)} for all samples"
        )
    value = np.array(column.whole())
    if is_float(value.dtype) and not np.isfinite(value).all():
        raise DataError(f"{here}: {found.array!r} has NaN or infinity")
    free = [axis for axis, size in enumerate(tensor.shape) if size in batch and isinstance(size, str)]
    return Constant(value, tuple(axis for axis in free if value.shape[axis] == 1))


def batch_axis(tensor: ModelInput, batch: set[str | None]) -> int:
    """Which axis counts samples: the first, or of an input like `[2, batch, 128]` the one of that name."""
    if not tensor.shape or not isinstance(tensor.shape[0], int):
        return 0
    return next((a for a, size in enumerate(tensor.shape) if isinstance(size, str) and size in batch), 0)


def _input(
    found: Match, steps: list[Transform], order: str | None, batch: set[str | None], where: str
) -> Input:
    """The input behind a match, with its transforms planned.

    Raises DataError, with all problems, when the transformed samples are not what the model takes.
    """
    tensor, column = found.tensor, found.column
    here = f"{where}.inputs.{tensor.name}"
    if not column.shape:
        raise DataError(f"{here}: {found.array!r} is one number; give one per sample")
    stored, axis = Form(column.shape[1:], column.dtype, order), batch_axis(tensor, batch)
    wanted = (*tensor.shape[:axis], *tensor.shape[axis + 1 :])
    try:
        form, functions = plan(steps, stored, tensor)
    except Misfit as misfit:
        raise DataError(f"{where}.transforms: input {tensor.name!r}: {misfit}") from misfit
    problems = []
    if form.dtype != tensor.dtype:
        problems.append(
            f"{here}: {found.array!r} gives {name_of(form.dtype)}, the model takes {name_of(tensor.dtype)}; "
            f"{_dtype_hint(form.dtype, tensor.dtype)}"
        )
    if not fits(form.shape, wanted):
        problems.append(
            f"{here}: {found.array!r} gives samples {axes(form.shape)}, "
            f"the model takes {axes(wanted)}{_layout_hint(form, tensor)}"
        )
    if problems:
        raise DataError(*problems)
    return Input(column, tuple(functions), tuple(step.model_dump(exclude_unset=True) for step in steps), axis)


def _dtype_hint(have: np.dtype[Any], want: np.dtype[Any]) -> str:
    if have == np.uint8 and is_float(want):
        return "for pixels write `transforms: [{scale: 0.00392157}, ...]`"
    is_castable = want.name in ("float16", "float32", "float64", "int32", "int64") and have.kind in "iufb"
    if is_castable and is_float(have) <= is_float(want):
        return f"add `{{cast: {want.name}}}` to `transforms`"
    return f"save it as {want.name}"


def _layout_hint(form: Form, tensor: ModelInput) -> str:
    for layout in ("NCHW", "NHWC"):
        try:
            turned, _ = plan([Transform.model_validate({"layout": layout})], form, tensor)
        except Misfit:
            continue
        if turned.shape != form.shape and fits(turned.shape, tensor.shape[1:]):
            return f"; add `{{layout: {layout}}}` to `transforms`"
    return ""
