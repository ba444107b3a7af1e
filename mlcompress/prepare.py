"""Everything a stage needs beside its model, opened and checked before any work starts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir

from mlcompress import checkpoint, console, gate, graph, metrics
from mlcompress.context import Context, GivenTeacher
from mlcompress.data import Dataset, describe, inherit, open_data, split
from mlcompress.data.callable import forbidden
from mlcompress.data.keys import sources
from mlcompress.distill.factory import build_student, code_forbidden
from mlcompress.distill.recipe import DistillRecipe, StudentSection
from mlcompress.distill.teachers import in_part, open_teachers, own_models
from mlcompress.errors import DataError, ModelError, RecipeError, UsageError, UserError
from mlcompress.graph import Signature
from mlcompress.job import Job
from mlcompress.recipe.sections import DataEntry, Shared

T = TypeVar("T")


def check(job: Job, recipe: Shared) -> None:
    """Refuse what needs no model for it: code under --no-code, checkpoints that the recipe leaves open.

    Raises:
        RecipeError: one line for each.
    """
    lines: list[str] = []
    own = own_models(recipe) if isinstance(recipe, DistillRecipe) else {}
    for path in dict.fromkeys([*job.inputs, *files_named(recipe)]):
        try:
            checkpoint.check(path, own.get(path, recipe.model), no_code=job.no_code)
        except RecipeError as problem:
            lines.extend(problem.lines)
    entries = {name: getattr(recipe.data, name) for name in type(recipe.data).model_fields}
    if job.no_code:
        lines += [
            forbidden(entry.python, f"data.{name}")
            for name, entry in entries.items()
            if entry is not None and entry.python is not None
        ]
    if job.no_code and isinstance(recipe, DistillRecipe) and recipe.distill.student.factory is not None:
        lines.append(code_forbidden(recipe.distill.student))
    if lines:
        raise RecipeError(*dict.fromkeys(lines))


def context(job: Job, recipe: Shared, model: ir.Model) -> Context:
    """Data sets and student of `job`, with every problem reported at once.

    Raises:
        UserError: one line for each problem of data or student, and for a gate that lacks its data.
    """
    problems: list[str] = []

    def attempt(action: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return action(*arguments)
        except UserError as problem:
            problems.extend(problem.lines)
            return None

    wanted = _entries(recipe)
    opened = {name: attempt(_open, name, wanted, recipe, model, job) for name in wanted}
    teachers = attempt(_teachers, job, recipe, model, opened) or ()
    student = attempt(_student, job, recipe, model)
    outputs = [tensor.name for tensor in graph.signature(model).outputs]
    if recipe.evaluate.output is not None and recipe.evaluate.output not in outputs:
        have = ", ".join(outputs)
        problems.append(f"evaluate.output: no output {recipe.evaluate.output!r}; choose one of {have}")
    if job.stage != "distill":  # a student is derived whatever `skip` says
        for pattern in graph.nodes_matching(model, recipe.skip).unmatched:
            problems.append(graph.no_match(model, pattern, "skip"))
    if "train" in wanted:
        problems += graph.unfrozen(student or model, recipe.train.freeze)
    if "evaluate" not in wanted and gate.needs_metric(recipe.gate):
        problems.append("gate: a limit on the metric needs samples to measure it on; add `data.evaluate`")
    train, validation = opened.get("train"), opened.get("validation")
    is_split = validation is None and recipe.train.validation > 0
    metric = recipe.evaluate.metric
    if is_split and train is not None and not train.has_labels and metric in metrics.LABELLED:
        problems.append(
            f"data.validation: the epoch is chosen by {metric} on a part of data.train, which has no labels;"
            " name labelled data.validation, take `evaluate: {metric: agreement}` (or cosine), or set"
            " `train: {validation: 0}` to keep the last epoch"
        )
    if problems:
        raise DataError(*problems)
    if train is not None and is_split:
        whole = train
        train, validation = split(whole, recipe.train.validation, recipe.seed)
        teachers = in_part(teachers, whole, train, validation)
    return Context(
        seed=recipe.seed,
        train=train,
        validation=validation,
        calibration=opened.get("calibration"),
        evaluation=opened.get("evaluate"),
        student=student,
        teachers=teachers,
    )


def baseline(recipe: Shared, signature: Signature, *, no_code: bool) -> ir.Model | None:
    """The gate's baseline, cleaned as the input is; None if the recipe names none.

    Raises:
        ModelError: it cannot be loaded, or takes other inputs than the model.
    """
    if recipe.gate.baseline is None:
        return None
    model = checkpoint.load(recipe.gate.baseline, recipe.model, no_code=no_code)
    theirs = [(tensor.name, tensor.dtype) for tensor in graph.signature(model).inputs]
    ours = [(tensor.name, tensor.dtype) for tensor in signature.inputs]
    if theirs != ours:
        told = [", ".join(f"{name} {dtype}" for name, dtype in inputs) for inputs in (theirs, ours)]
        raise ModelError(
            f"gate.baseline: {recipe.gate.baseline} takes {told[0]}, the model takes {told[1]}; "
            "name a model of the same task"
        )
    return model


def files_named(recipe: Shared) -> list[Path]:
    """Model files that a recipe names, which an output must not replace."""
    section = getattr(recipe, "distill", None)
    student = getattr(section, "student", None)
    teachers = [entry.file for entry in section.teachers.each] if section is not None else []
    named = [recipe.gate.baseline, getattr(student, "file", None), *teachers]
    return [Path(name) for name in named if name is not None]


def used_data(given: Context) -> dict[str, Any]:
    """Which samples were used, for the card."""
    names = {"train": given.train, "validation": given.validation, "calibration": given.calibration}
    return {
        name: describe(data)
        for name, data in {**names, "evaluate": given.evaluation}.items()
        if data is not None
    }


def _teachers(
    job: Job, recipe: Shared, model: ir.Model, opened: Mapping[str, Dataset | None]
) -> tuple[GivenTeacher, ...]:
    if not isinstance(recipe, DistillRecipe):
        return ()
    return open_teachers(job, recipe, model, opened.get("train"), opened.get("validation"))


def _student(job: Job, recipe: Shared, model: ir.Model) -> ir.Model | None:
    """The student of the command line or of the recipe; None where it is to be derived."""
    if not isinstance(recipe, DistillRecipe):
        return None
    section = recipe.distill.student
    named = section.file
    for key in ("file", "factory"):
        if job.student is not None and getattr(section, key) is not None:
            raise UsageError(f"--student: distill.student.{key} names a student too; give one of them")
    if section.factory is not None:
        return build_student(section, model)
    path = job.student or named
    unsaid = StudentSection()
    if job.student is not None and section != unsaid:
        console.say(f"--student: {job.student} takes the place of the recipe's distill.student")
    return None if path is None else checkpoint.load(path, recipe.model, no_code=job.no_code)


def _entries(recipe: Shared) -> dict[str, bool]:
    """Data entries to open, and whether they must have labels."""
    needed = dict(recipe.needs())
    for name in needed:
        if name != "calibration" and getattr(recipe.data, name) is None:
            raise RecipeError(
                f"data.{name}: this recipe needs samples; add `data: {{{name}: {{path: FILE.npz}}}}`"
            )
    if "train" in needed and recipe.data.validation is not None:
        needed["validation"] = recipe.evaluate.metric in metrics.LABELLED
    if recipe.data.evaluate is not None:
        needed["evaluate"] = recipe.evaluate.metric in metrics.LABELLED
    return needed


def _open(name: str, wanted: dict[str, bool], recipe: Shared, model: ir.Model, job: Job) -> Dataset | None:
    entry: DataEntry | None = getattr(recipe.data, name)
    if entry is None:
        return None
    if recipe.data.train is not None and name != "train":
        if name == "calibration" and not sources(
            entry
        ):  # some of the training samples are what calibration wants
            entry = recipe.data.train.model_copy(update={"limit": entry.limit, "samples": entry.samples})
        entry = inherit(entry, recipe.data.train)
    data = open_data(
        entry,
        graph.signature(model),
        where=f"data.{name}",
        labels=wanted[name],
        seed=recipe.seed,
        no_code=job.no_code,
        output=recipe.evaluate.output,
        shapes=recipe.measure.shapes,
    )
    for note in data.origin.notes:
        console.say(note)
    return data
