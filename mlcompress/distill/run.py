"""`mlcompress distill`: derive or take a student, and train it to answer as the teacher does."""

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.simkd import graft
from mlcompress.distill.student import make_student
from mlcompress.train.recover import learn, training_data


def run(model: ir.Model, recipe: DistillRecipe, context: Context) -> tuple[ir.Model, Change]:
    """Train a student of the teacher `model`, which is not changed.

    Raises:
        UnsupportedError: ops that cannot be trained.
        DataError: no training samples, or labels that a loss needs are missing.
        ModelError: the student's inputs or outputs differ from the teacher's.
    """
    section, settings = recipe.distill, recipe.train
    data = training_data(context)
    student = make_student(model, section.student, context)
    grown = graft(student.model, model, section.losses, context.seed)
    learnt = learn(
        student.model,
        model,
        settings,
        context,
        losses=grown.losses,
        evaluate=recipe.evaluate,
        epochs=settings.epochs,
        label="distill",
        where="distill",
        cache=section.cache,
        frozen=grown.frozen,
    )
    history = learnt.history
    before, after = graph.parameters(model), graph.parameters(student.model)
    details = {
        "student": {**student.description, "params_teacher": before, "params": after, **grown.description},
        "losses": [entry.model_dump(by_alias=True, exclude_none=True) for entry in grown.losses],
        "teacher_cache": learnt.is_cached,
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
