"""The graph to train: narrowed from the teacher's own, or a file with the same inputs and outputs."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.distill.fresh import reinitialise
from mlcompress.distill.recipe import StudentSection
from mlcompress.errors import ModelError, UnsupportedError
from mlcompress.graph.dependency import Family, analyse, remove
from mlcompress.graph.dependency.widths import multiple, nearest


@dataclass(frozen=True)
class Student:
    """A graph that is not trained yet; `description` and `skipped` go to the card."""

    model: ir.Model
    description: dict[str, Any]
    skipped: list[dict[str, str]] = field(default_factory=list)


def make_student(teacher: ir.Model, section: StudentSection, context: Context) -> Student:
    """`context.student`, or else a narrow copy of `teacher`, which is not changed.

    Raises:
        ModelError: a given student's inputs or outputs differ from the teacher's, all differences at once.
        UnsupportedError: the teacher has nothing that could be narrowed.
    """
    if context.student is not None:
        _check_interface(context.student, teacher)
        return Student(context.student, {"source": "file"})
    return _narrow(teacher, section, context.seed)


def _narrow(teacher: ir.Model, section: StudentSection, seed: int) -> Student:
    """A copy whose families of channels, heads and hidden units keep about `width` of their units.

    Families behind a normalisation go too: their removal is inexact, but the student is trained anyway.
    """
    model = graph.copy(teacher)
    analysis = analyse(model)
    if not analysis.families:
        raise UnsupportedError(
            "distill.student: no layer of this model can be narrowed; name a student with --student FILE"
        )
    statistics = _running_statistics(model)
    widths, dead = {}, {}
    for family in analysis.families:
        block = multiple(family.units, conv=family.conv, round_to=section.round_to)
        kept = nearest(section.width * family.units, family.units, block)
        best_first = np.argsort(-_squared_norms(family, model, statistics), kind="stable")
        dead[family.name] = np.sort(best_first[kept:])
        widths[family.name] = [family.units, kept]
    remove(model, analysis, dead)
    description: dict[str, Any] = {
        "source": "teacher",
        "width": section.width,
        "weights": section.weights,
        "units": widths,
    }
    if section.weights == "fresh":
        description["left_as_inherited"] = reinitialise(model, seed)
    return Student(model, description, analysis.left_alone())


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


def _check_interface(student: ir.Model, teacher: ir.Model) -> None:
    ours, theirs = graph.signature(student), graph.signature(teacher)
    lines = _differences("input", ours.inputs, theirs.inputs) + _differences(
        "output", ours.outputs, theirs.outputs
    )
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
