"""The graph to train: cut from the teacher's own, or one with the same inputs and outputs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import Dataset
from mlcompress.distill.depth import shallower
from mlcompress.distill.fresh import reinitialise
from mlcompress.distill.recipe import StudentSection
from mlcompress.errors import ModelError, RecipeError, UnsupportedError
from mlcompress.graph.dependency import Analysis, Family, analyse, remove
from mlcompress.graph.dependency.widths import multiple, nearest
from mlcompress.measure.refit import lost, refit
from mlcompress.measure.sums import refit_sums

_FITTED_ON = 256
"""Training samples that inherited layers are fitted on."""


@dataclass(frozen=True)
class Student:
    """A graph that is not trained yet; `description` and `skipped` go to the card."""

    model: ir.Model
    description: dict[str, Any]
    skipped: list[dict[str, str]] = field(default_factory=list)


def make_student(teacher: ir.Model, section: StudentSection, context: Context) -> Student:
    """`context.student`, or else a narrow or shallow copy of `teacher`, which is not changed.

    Raises:
        ModelError: a given student's inputs or outputs differ from the teacher's, all differences at once.
        RecipeError: `units` that the teacher does not have.
        UnsupportedError: the teacher has nothing that could be narrowed, or no layers to leave out.
    """
    if context.student is not None:
        _check_interface(context.student, teacher, context.taught_outputs)
        return Student(graph.copy(context.student), {"source": "file"})
    return _derive(teacher, section, context)


def _derive(teacher: ir.Model, section: StudentSection, context: Context) -> Student:
    """A copy with a share of the layers, whose families of channels, heads and hidden units keep a share of
    their units.

    Families behind a normalisation go too: their removal is inexact, but the student is trained anyway.
    """
    model = graph.copy(teacher)
    description: dict[str, Any] = {"source": "teacher", "width": section.share, "weights": section.weights}
    is_fitted = section.reconstruct and section.weights == "inherit"
    samples, fitted, skipped = _samples(context) if is_fitted else None, list[str](), list[dict[str, str]]()
    if section.depth < 1:
        told, gaps = shallower(model, section.depth)
        description |= told
        if samples is not None:
            ends = refit_sums(model, teacher, gaps, samples)
            fitted, skipped = ends.layers, ends.skipped
    analysis = analyse(model)
    widths = _widths(analysis, section)
    if not widths and section.depth == 1:
        raise UnsupportedError(
            "distill.student: no layer of this model can be narrowed; name a student with --student FILE"
        )
    fitted += narrow(model, analysis, widths, samples)
    description["units"] = {name: [old, new] for name, (old, new) in widths.items()}
    if section.weights == "fresh":
        description["left_as_inherited"] = reinitialise(model, context.seed)
    elif fitted:
        description["reconstructed"] = list(dict.fromkeys(fitted))
    return Student(model, description, [*skipped, *analysis.left_alone()])


def _samples(context: Context) -> Dataset | None:
    """`context.calibration`, or else a few training samples: drawn, since files may be in order of class."""
    if context.calibration or context.train is None:
        return context.calibration
    count = len(context.train)
    drawn = np.random.default_rng(context.seed).choice(count, min(_FITTED_ON, count), replace=False)
    return context.train.subset(np.sort(drawn))


def _widths(analysis: Analysis, section: StudentSection) -> dict[str, tuple[int, int]]:
    """Family name -> its units, and how many it keeps.

    Raises RecipeError for a family of `units` that the model does not have, or a count it cannot keep.
    """
    planned = section.units
    units = {family.name: family.units for family in analysis.families}
    lines = [_no_family(name, units) for name in planned if name not in units]
    lines += [
        f"distill.student.units: {name} has {units[name]} units and cannot keep {count}; say 1..{units[name]}"
        for name, count in planned.items()
        if name in units and count > units[name]
    ]
    if lines:
        raise RecipeError(*lines)
    return {
        family.name: (family.units, planned.get(family.name, _share(family, section)))
        for family in analysis.families
    }


def _share(family: Family, section: StudentSection) -> int:
    if section.share == 1:
        return family.units
    block = multiple(family.units, conv=family.conv, round_to=section.round_to)
    return nearest(section.share * family.units, family.units, block)


def _no_family(name: str, units: Mapping[str, int]) -> str:
    close = get_close_matches(name, units, 1)
    told = f"did you mean {close[0]!r}?" if close else "`mlcompress inspect --groups` shows them"
    return f"distill.student.units: no family {name!r} in this model; {told}"


def narrow(
    model: ir.Model, analysis: Analysis, widths: Mapping[str, tuple[int, int]], data: Dataset | None = None
) -> list[str]:
    """Keep, in place, as many units of each family as `widths` says second: those of the largest norm.

    With `data` the layers that lost inputs are then fitted to what they gave; their names.
    """
    statistics, dead = _running_statistics(model), {}
    for family in analysis.families:
        best_first = np.argsort(-_squared_norms(family, model, statistics), kind="stable")
        dead[family.name] = np.sort(best_first[widths[family.name][1] :])
    if data is None or not any(len(units) for units in dead.values()):
        remove(model, analysis, dead)
        return []
    before, losses = graph.copy(model), lost(model, analysis, dead)
    remove(model, analysis, dead)
    return refit(model, before, losses, data)


def _squared_norms(family: Family, model: ir.Model, statistics: set[str]) -> NDArray[np.float64]:
    """[units]: sum of squares over all that goes with a unit; running statistics and integers left out."""
    total = np.zeros(family.units)
    for member in family.members:
        numbers = family.slices(model, member)
        if member.tensor not in statistics and numbers.dtype.kind == "f":
            total += np.square(numbers.astype(np.float64)).sum(axis=1)
    return total


def _running_statistics(model: ir.Model) -> set[str]:
    norms = [node for node in model.graph.all_nodes() if node.op_type == "BatchNormalization"]
    return {str(value.name) for node in norms for value in node.inputs[3:5] if value is not None}


def _check_interface(student: ir.Model, teacher: ir.Model, more: Collection[str]) -> None:
    """Outputs that another teacher teaches (`more`) may be there too."""
    ours, theirs = graph.signature(student), graph.signature(teacher)
    known = {tensor.name for tensor in theirs.outputs}
    outputs = tuple(tensor for tensor in ours.outputs if tensor.name in known or tensor.name not in more)
    lines = _differences("input", ours.inputs, theirs.inputs) + _differences(
        "output", outputs, theirs.outputs
    )
    first = [tensor.name for tensor in theirs.outputs]
    if not lines and [tensor.name for tensor in ours.outputs[: len(first)]] != first:
        lines = [f"outputs do not begin with {', '.join(first)}"]
    if lines:
        raise ModelError(
            *(f"student: {line}; a student has the teacher's inputs and outputs" for line in lines)
        )


def _differences(kind: str, ours: tuple[graph.Tensor, ...], theirs: tuple[graph.Tensor, ...]) -> list[str]:
    mine = {tensor.name: tensor for tensor in ours}
    lines = [
        f"{kind} {tensor.name!r} is not one of the teacher's"
        for tensor in ours
        if tensor.name not in {t.name for t in theirs}
    ]
    for tensor in theirs:
        found = mine.get(tensor.name)
        if found is None:
            lines.append(f"{kind} {tensor.name!r} of the teacher is missing")
        elif found.dtype != tensor.dtype or not _fits(found.shape, tensor.shape):
            lines.append(f"{kind} {tensor.name!r} is {_spelt(found)}, the teacher's {_spelt(tensor)}")
    return lines


def _fits(one: tuple[int | str | None, ...] | None, other: tuple[int | str | None, ...] | None) -> bool:
    """Equal lengths wherever both are known."""
    if one is None or other is None:
        return True
    known = [(a, b) for a, b in zip(one, other, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(one) == len(other) and all(a == b for a, b in known)


def _spelt(tensor: graph.Tensor) -> str:
    shape = (
        "of unknown shape"
        if tensor.shape is None
        else str([size if size is not None else "?" for size in tensor.shape])
    )
    return f"{tensor.dtype} {shape}"
