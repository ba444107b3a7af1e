"""Distillation from end to end on a task of a second."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from pydantic import Field, TypeAdapter

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.run import run
from mlcompress.train.losses import annotation, losses
from tests.distill.conftest import TRAIN
from tests.train.nets import stripes, weights


def context(**more: Any) -> Context:
    return Context(**{"seed": 0, "train": stripes(), "validation": stripes(90, seed=1), **more})


def distil(
    teacher: ir.Model,
    distill: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> tuple[ir.Model, Change]:
    """`given` goes to the context."""
    recipe = DistillRecipe.model_validate({"distill": distill or {}, "train": {**TRAIN, **(settings or {})}})
    return run(teacher, recipe, context(**given))


def top1(model: ir.Model) -> float:
    """By onnxruntime on fresh samples."""
    data = stripes(300, seed=2)
    session = ort.InferenceSession(graph.to_bytes(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, data.take(np.arange(300)).inputs)
    return float((logits.argmax(1) == data.labels).mean())


def same(one: ir.Model, other: ir.Model) -> bool:
    return graph.to_bytes(one) == graph.to_bytes(other)


def test_half_a_teacher_learns_its_task(teacher: ir.Model) -> None:
    before = weights(teacher)
    student, change = distil(teacher)
    assert top1(teacher) > 0.95
    assert top1(student) > 0.9  # three classes: 0.33 is chance
    assert all(np.array_equal(before[name], array) for name, array in weights(teacher).items())
    assert graph.signature(student) == graph.signature(teacher)
    assert list(student.graph.initializers) == list(teacher.graph.initializers)
    assert [node.name for node in student.graph] == [node.name for node in teacher.graph]
    assert weights(student)["w1"].shape == (4, 1, 3, 3)
    details = json.loads(json.dumps(change.details))
    assert details["student"]["params"] < details["student"]["params_teacher"]
    assert details["student"]["units"] == {"w1": [8, 4]}
    assert details["teacher_cache"] is True
    assert [row["epoch"] for row in details["epochs"]] == [1, 2, 3, 4]
    assert details["best_metric"] == max(row["metric"] for row in details["epochs"])
    assert "of the parameters, epoch" in change.summary


def test_same_seed_same_bytes_whatever_keeps_the_cache(teacher: ir.Model, tmp_path: Path) -> None:
    first, _ = distil(teacher)
    kept, _ = distil(teacher, {"cache": str(tmp_path)})
    again, _ = distil(teacher, {"cache": str(tmp_path)})
    resumable, _ = distil(teacher, state_dir=tmp_path / "state")
    other, _ = distil(teacher, seed=1)
    assert same(first, kept)
    assert same(first, again)
    assert same(first, resumable)
    assert not same(first, other)
    assert (tmp_path / "state" / "teacher").is_dir()


def test_augmented_images_are_shown_to_the_teacher_too(teacher: ir.Model) -> None:
    student, change = distil(teacher, settings={"augment": [{"flip": "horizontal"}, {"mixup": 0.2}]})
    assert change.details["teacher_cache"] is False
    assert top1(student) > 0.9


def test_labels_are_not_needed_for_soft(teacher: ir.Model) -> None:
    unlabelled = DistillRecipe.model_validate(
        {"distill": {"losses": ["soft"]}, "train": TRAIN, "evaluate": {"metric": "agreement"}}
    )
    blind = context(train=stripes(labels=False), validation=stripes(90, seed=1, labels=False))
    student, change = run(teacher, unlabelled, blind)
    assert top1(student) > 0.9
    assert change.details["best_metric"] > 0.9


def test_the_teacher_helps(teacher: ir.Model) -> None:
    """Two labels in three are random: a student of the labels learns less than one of the teacher."""
    data = stripes()
    wrong = np.random.default_rng(0).integers(0, 3, len(data))
    noisy = stripes()
    noisy.labels = np.where(np.arange(len(data)) % 3 == 0, data.labels, wrong).astype(np.int64)
    fresh = {"student": {"weights": "fresh"}}
    alone = [
        top1(distil(teacher, {**fresh, "losses": ["hard"]}, train=noisy, seed=seed)[0]) for seed in range(3)
    ]
    helped = [top1(distil(teacher, fresh, train=noisy, seed=seed)[0]) for seed in range(3)]
    assert min(helped) > max(alone)


def test_a_new_loss_goes_from_recipe_to_training(teacher: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_functions", dict(losses._functions))

    @losses
    def huber(
        student: torch.Tensor, teacher: torch.Tensor, *, delta: Annotated[float, Field(gt=0)] = 1.0
    ) -> torch.Tensor:
        """Quadratic near zero, linear beyond delta (Huber 1964)."""
        return torch.nn.functional.huber_loss(student, teacher, delta=delta)

    made = TypeAdapter(annotation()).validate_python({"name": "huber", "delta": 2.0})
    recipe = DistillRecipe.model_validate({"train": TRAIN})
    section = recipe.distill.model_copy(update={"losses": [made]})
    student, change = run(teacher, recipe.model_copy(update={"distill": section}), context())
    assert change.details["losses"] == [{"name": "huber", "weight": 1.0, "delta": 2.0}]
    assert top1(student) > 0.9
