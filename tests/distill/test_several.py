"""Several students in one command: combinations of options, and generations."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress.context import Change, GivenTeacher
from mlcompress.distill.grid import trials
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.errors import DataError
from mlcompress.train.losses import entry
from tests.distill.test_run import distil, same
from tests.train.nets import net, weights

SWEEP = {"temperature": [1, 4], "soft.weight": [0.9, 0.001]}
STUDENT = {"weights": "fresh"}


def test_a_grid_is_every_combination() -> None:
    losses = [entry("soft", weight=0.9), entry("hard", weight=0.1), entry("logit_std")]
    found = trials(losses, SWEEP)
    assert [values for values, _ in found] == [
        {"temperature": t, "soft.weight": w} for t in (1, 4) for w in (0.9, 0.001)
    ]
    soft, hard, standard = found[-1][1]
    assert (soft.weight, soft.options()["temperature"]) == (0.001, 4)
    assert hard == losses[1]
    assert (standard.weight, standard.options()["temperature"]) == (9, 4)


def swept(teacher: ir.Model, sweep: dict[str, Any], **more: Any) -> tuple[ir.Model, Change]:
    distill = {"student": STUDENT, "losses": ["soft", {"name": "hard", "weight": 0.5}], "sweep": sweep}
    return distil(teacher, distill, {"epochs": 2}, **more)


def alone(teacher: ir.Model, values: dict[str, float]) -> tuple[ir.Model, Change]:
    soft = {"name": "soft", "temperature": values["temperature"], "weight": values["soft.weight"]}
    distill = {"student": STUDENT, "losses": [soft, {"name": "hard", "weight": 0.5}]}
    return distil(teacher, distill, {"epochs": 2})


def test_the_best_trial_is_that_of_its_own_recipe(teacher: ir.Model, tmp_path: Path) -> None:
    student, change = swept(teacher, SWEEP, state_dir=tmp_path)
    told = change.details["sweep"]
    singles = [alone(teacher, row) for row in told["trials"]]
    metrics = [single.details["best_metric"] for _, single in singles]
    assert [row["metric"] for row in told["trials"]] == metrics
    assert len(set(metrics)) > 1  # there is something to choose
    best = int(np.argmax(metrics))
    assert told["best"] == best + 1
    assert same(student, singles[best][0])
    assert all(row["epochs"] == 2 for row in told["trials"])
    assert f"trial {best + 1} of 4" in change.summary
    assert len(list((tmp_path / "teacher").glob("*.json"))) == 1  # one cache for all


def test_short_trials_choose_what_is_trained_in_full(teacher: ir.Model) -> None:
    student, change = swept(teacher, {**SWEEP, "epochs": 1})
    told = change.details["sweep"]
    assert all(row["epochs"] == 1 for row in told["trials"])
    assert len(change.details["epochs"]) == 2
    assert same(student, alone(teacher, told["trials"][told["best"] - 1])[0])


def test_generations_teach_each_other(teacher: ir.Model) -> None:
    settings = {"epochs": 3, "optimizer": {"name": "adamw", "lr": 0.02}}
    student, change = distil(teacher, {"losses": ["soft"], "generations": 3}, settings)
    told = change.details["generations"]
    metrics = [row["metric"] for row in told["each"]]
    assert told["best"] == int(np.argmax(metrics)) + 1
    assert change.details["best_metric"] == max(metrics)
    own = {"losses": ["soft"], "student": {"width": 1.0, "weights": "fresh"}}
    first, _ = distil(teacher, own, settings)
    second, of_second = distil(first, own, settings, seed=1)  # taught by the first, from other weights
    third, _ = distil(second, own, settings, seed=2)
    assert told["each"][1]["epochs"] == of_second.details["epochs"]
    assert same(student, [first, second, third][told["best"] - 1])
    assert weights(student)["w1"].shape == weights(teacher)["w1"].shape


def test_only_the_first_generation_chooses_its_teachers(teacher: ir.Model) -> None:
    given = tuple(GivenTeacher(model, name) for model, name in ((teacher, "a.onnx"), (net(1), "b.onnx")))
    losses = [{"name": "soft", "teachers": [1]}]
    _, change = distil(teacher, {"losses": losses, "generations": 2}, {"epochs": 1}, teachers=given)
    assert len(change.details["generations"]["each"]) == 2


@pytest.mark.parametrize("distill", [{"generations": 2}, {"sweep": {"temperature": [1, 2]}}])
def test_without_validation_there_is_nothing_to_choose_by(
    teacher: ir.Model,
    distill: dict[str, Any],
) -> None:
    with pytest.raises(DataError, match="compares students on validation data"):
        distil(teacher, distill, validation=None)


def test_a_given_student_begins_each_trial_anew(teacher: ir.Model) -> None:
    given = net(seed=7)
    before = weights(given)
    _, change = distil(teacher, {"sweep": {"temperature": [4, 4]}}, {"epochs": 1}, student=given)
    one, other = change.details["sweep"]["trials"]
    assert one == other
    assert change.details["sweep"]["best"] == 1  # the earlier of equals
    assert all(np.array_equal(array, before[name]) for name, array in weights(given).items())


def test_unsure_teachers_teach_nothing(teacher: ir.Model) -> None:
    """A teacher that is never so sure of a sample leaves the student as it was, but for weight decay."""
    plain = {"optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0}, "epochs": 1}
    blank = net(seed=4)
    for name in ("w2", "b2"):
        value = blank.graph.initializers[name]
        value.const_value = ir.tensor(np.zeros(value.const_value.shape.numpy(), np.float32), name=name)
    start, _ = distil(blank, {"losses": [{"name": "pseudo", "confidence": 0.5}]}, plain)
    made = weights(start)
    assert not made["w2"].any()
    assert made["b2"].tolist() == [0, 0, 0]
    moved, _ = distil(blank, {"losses": [{"name": "pseudo", "confidence": 0.3}]}, plain)
    assert weights(moved)["b2"].any()


def test_needs() -> None:
    made = DistillRecipe.model_validate({"distill": {"losses": [{"name": "pseudo", "confidence": 0.9}]}})
    assert made.needs() == {"train": False}  # no labels
