"""`mlcompress distill`: derive or take a student, and train it to answer as the teacher does."""

from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.distill.generations import born_again, need_validation
from mlcompress.distill.grid import trials
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.recipe_teachers import TeachersSection
from mlcompress.distill.simkd import graft
from mlcompress.distill.student import make_student
from mlcompress.distill.sweep import sweep
from mlcompress.errors import RecipeError
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.lesson import begin, training_data
from mlcompress.train.mixture import check_learned, learn_weights
from mlcompress.train.recover import learn


def run(model: ir.Model, recipe: DistillRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Train a student of the teacher `model`, which is not changed; with `sweep` or `generations` several, of
    which the best is returned.

    Raises:
        UnsupportedError: ops that cannot be trained.
        DataError: no training samples, or labels that a loss needs are missing; nothing to choose the best of
            several students by.
        ModelError: the student's inputs or outputs differ from the teacher's.
    """
    check(model, recipe, context)
    return sweep(_students, model, recipe, context, "distill")


def check(model: ir.Model, recipe: DistillRecipe, context: Context) -> list[str]:
    """Derive the student, without fitting it, and compute every loss on two samples; what would be trained.

    Raises:
        UserError: what `run` would refuse before its first step.
    """
    section = recipe.distill
    if isinstance(section.cache, str) and Path(section.cache).is_file():
        raise RecipeError(f"distill.cache: {section.cache} is a file; name a folder")
    if section.sweep is not None:
        need_validation(context, "distill.sweep")
    if section.generations > 1:
        need_validation(context, "distill.generations")
    unfitted = section.student.model_copy(update={"reconstruct": False})
    made = make_student(model, unfitted, context)
    student = made.model
    grown = graft(student, model, section.losses, context.seed)
    ensemble = _ensemble(context, section.teachers)
    if ensemble is not None and section.teachers.combine == "learned":
        check_learned(ensemble, grown.losses, student, context, recipe.train.threads)
    lesson = begin(
        student,
        model,
        recipe.train,
        context,
        losses=grown.losses,
        where="distill",
        ensemble=ensemble,
        frozen=grown.frozen,
    )
    share = graph.parameters(student) / graph.parameters(model)
    told = [f"student: {graph.parameters(student):,} parameters ({share:.0%})"]
    if "layers_kept" in made.description:
        told.append(f"layers kept: {', '.join(made.description['layers_kept'])}")
    if section.sweep is not None:
        told.append(f"sweep: {len(trials(section.losses, section.sweep.values))} trials")
    if section.generations > 1:
        told.append(f"generations: {section.generations}")
    return [*told, *(f"warning: {line}" for line in [*grown.warnings, *lesson.warnings])]


def _students(
    model: ir.Model, recipe: DistillRecipe, context: Context, label: str
) -> tuple[ir.Model, Change]:
    if recipe.distill.generations > 1:
        return born_again(_distil, model, recipe, context, label)
    return _distil(model, model, recipe, context, label)


def _distil(
    origin: ir.Model, model: ir.Model, recipe: DistillRecipe, context: Context, label: str
) -> tuple[ir.Model, Change]:
    """One student, derived from `origin` and taught by `model`."""
    section, settings = recipe.distill, recipe.train
    data = training_data(context)
    student = make_student(origin, section.student, context)
    grown = graft(student.model, model, section.losses, context.seed)
    ensemble, how = _ensemble(context, section.teachers), dict[str, Any]()
    if ensemble is not None and section.teachers.combine == "learned":
        fitted = learn_weights(ensemble, grown.losses, student.model, context, settings.threads)
        ensemble, how = fitted.ensemble, fitted.facts
    learnt = learn(
        student.model,
        model,
        settings,
        context,
        losses=grown.losses,
        evaluate=recipe.evaluate,
        epochs=settings.epochs,
        label=label,
        where="distill",
        cache=section.cache,
        frozen=grown.frozen,
        ensemble=ensemble,
    )
    history = learnt.history
    before, after = graph.parameters(origin), graph.parameters(student.model)
    details = {
        "student": {**student.description, "params_teacher": before, "params": after, **grown.description},
        "losses": [entry.model_dump(by_alias=True, exclude_none=True) for entry in grown.losses],
        **_teachers(context, section.teachers, how),
        "teacher_cache": learnt.is_cached,
        "teacher_cache_read": learnt.is_read,
        **({"teacher_online": learnt.online} if learnt.online else {}),
        "samples": len(data),
        **history.as_card(),
    }
    best = (
        ""
        if history.best_metric is None
        else f", {recipe.evaluate.metric} {history.best_metric:.4g} on validation"
    )
    share = f"student with {after / before:.0%} of the parameters"
    summary = f"{share}, epoch {history.best_epoch} of {settings.epochs}{best}"
    return student.model, Change(
        summary,
        details,
        skipped=[*student.skipped, *learnt.skipped],
        warnings=[*grown.warnings, *learnt.warnings],
    )


def _ensemble(context: Context, section: TeachersSection) -> Ensemble | None:
    """The teachers of the command; None where TEACHER is the only one and nothing is said of it."""
    if not context.teachers:
        return None
    return Ensemble(context.teachers, section.combine, tuple(section.weights))


def _teachers(context: Context, section: TeachersSection, how: dict[str, Any]) -> dict[str, Any]:
    """For the card: which teachers, and how they were combined; `how` was learned."""
    if not context.teachers:
        return {}
    files = [{"path": one.file, "own_inputs": one.train is not None} for one in context.teachers]
    told: dict[str, Any] = {"files": files, "combine": section.combine, **how}
    if section.combine == "weighted":
        told["weights"] = [weight / sum(section.weights) for weight in section.weights]
    if section.combine == "confidence":
        labels = context.train is not None and context.train.labels is not None
        told["by"] = "labels" if labels else "entropy"
    return {"teachers": told}
