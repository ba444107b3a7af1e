"""What a dry run of distil refuses: whatever the run would refuse before its first step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from mlcompress import console, pipeline
from mlcompress.errors import DataError, ModelError, UnsupportedError, UserError
from mlcompress.job import Job
from tests import task

DATA = {"train": {"path": "train.npz", "inputs": {"image": "image"}, "label": "y"}}
TRAIN = {"epochs": 1, "batch_size": 50, "threads": 1}


def job(distill: dict[str, Any], teacher: str = "teacher.onnx", **more: Any) -> Job:
    text = {"data": DATA, "train": TRAIN, "distill": distill, "measure": {"repeats": 1}} | more
    Path("distill.yaml").write_text(yaml.safe_dump(text))
    return Job("distill", Path(teacher), Path("out.onnx"), "distill.yaml", ())


def refused(kind: type[UserError], distill: dict[str, Any], *others: str, **more: Any) -> str:
    """The line that both the run and the dry run end with; neither leaves anything behind."""
    made, lines = job(distill, **more), []
    if others:
        made = Job(made.stage, made.model, made.output, made.recipe, (), teachers=tuple(map(Path, others)))
    before = sorted(Path().rglob("*"))
    for act in (pipeline.dry_run, pipeline.run):
        with pytest.raises(kind) as caught:
            act(made)
        lines.append(str(caught.value))
    assert sorted(Path().rglob("*")) == before
    assert lines[0] == lines[1]
    return lines[0]


def test_what_fits_passes_and_writes_nothing(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [*sorted(inside.rglob("*")), inside / "distill.yaml"]
    console.set_quiet(False)  # a command before this one may have
    pipeline.dry_run(job({"losses": ["soft", "hard", {"name": "hint", "teacher": "r2"}]}))
    assert sorted(inside.rglob("*")) == sorted(before)
    written = capsys.readouterr().err
    assert "recipe, model and data fit" in written
    assert "student: " in written
    assert "(26%)" in written
    pipeline.dry_run(
        job({"sweep": {"temperature": [2, 4, 8]}, "student": {"width": 0.5}, "losses": ["soft", "pkt"]})
    )
    written = capsys.readouterr().err
    assert "sweep: 3 trials" in written


def test_a_tensor_that_there_is_not(inside: Path) -> None:
    line = refused(UserError, {"losses": ["soft", {"name": "hint", "teacher": "feature"}]})
    assert "did you mean 'features'" in line


def test_learned_weights_of_plain_values(inside: Path) -> None:
    onnx.save(task.solved(seed=5), "other.onnx")
    distill = {"losses": ["mse"], "teachers": {"combine": "learned"}}
    line = refused(UnsupportedError, distill, "other.onnx")
    assert "learned needs class scores" in line


@pytest.mark.parametrize("section", [{"sweep": {"temperature": [2, 4]}}, {"generations": 2}])
def test_nothing_to_choose_the_best_by(section: dict[str, Any], inside: Path) -> None:
    line = refused(DataError, section, train=TRAIN | {"validation": 0})
    assert f"distill.{next(iter(section))}" in line


def test_an_epoch_that_cannot_be_chosen(inside: Path) -> None:
    """top1 on a held-out part of samples without labels."""
    with np.load("train.npz") as file:
        np.savez("bare.npz", image=file["image"])
    line = refused(DataError, {"losses": ["soft"]}, data={"train": {"path": "bare.npz"}})
    assert (
        "chosen by top1 on a part of data.train, which has no labels; name labelled data.validation" in line
    )


def test_a_student_of_the_command_line_takes_the_place_of_the_recipes(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.set_quiet(False)
    given = replace(job({"student": {"width": 0.25}}), student=Path("teacher.onnx"))
    pipeline.dry_run(given)
    assert (
        "--student: teacher.onnx takes the place of the recipe's distill.student" in capsys.readouterr().err
    )


def test_a_batch_of_fixed_length(inside: Path) -> None:
    model = onnx.load("teacher.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, "fixed.onnx")
    for act in (pipeline.dry_run, pipeline.run):
        with pytest.raises(UnsupportedError, match=r"image is \[1, .* a batch of fixed length"):
            act(job({}, "fixed.onnx"))


def test_a_given_student_that_does_not_fit(inside: Path) -> None:
    model = onnx.load("teacher.onnx")
    model.graph.output[0].name = "scores"
    model.graph.node[-1].output[0] = "scores"
    onnx.save(model, "student.onnx")
    line = refused(ModelError, {"student": {"file": "student.onnx"}})
    assert "output 'logits' of the teacher is missing" in line
