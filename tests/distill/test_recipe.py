"""What a distill recipe may say."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from mlcompress.distill.recipe import DistillRecipe


def recipe(distill: dict[str, Any]) -> DistillRecipe:
    return DistillRecipe.model_validate({"distill": distill})


def test_defaults() -> None:
    section = recipe({}).distill
    assert (section.student.share, section.student.weights, section.cache) == (0.5, "inherit", True)
    assert [(one.name, one.weight) for one in section.losses] == [("soft", 0.9), ("hard", 0.1)]
    assert section.losses[0].options() == {"temperature": 4.0, "confidence": 0.0}


def test_forms_of_students_and_losses() -> None:
    assert recipe({"student": "small.onnx"}).distill.student.file == "small.onnx"
    section = recipe({"losses": ["soft", {"name": "hard", "label_smoothing": 0.1, "weight": 0.5}]}).distill
    assert [one.weight for one in section.losses] == [1.0, 0.5]
    assert section.losses[1].options() == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("distill", "place", "words"),
    [
        ({"student": {"depth": 0}}, ("distill", "student", "depth"), "greater than 0"),
        (
            {"student": {"weights": "fresh", "reconstruct": False}},
            ("distill", "student"),
            "no effect with `weights",
        ),
        ({"student": {"kwargs": {"a": 1}}}, ("distill", "student"), "kwargs would have no effect"),
        ({"student": {"factory": "a:b", "depth": 0.5}}, ("distill", "student"), "exclude each other"),
        ({"generations": 0}, ("distill", "generations"), "greater than or equal to 1"),
        ({"sweep": {}}, ("distill", "sweep"), "nothing to vary"),
        ({"sweep": {"temperature": []}}, ("distill", "sweep", "temperature"), "at least 1"),
        ({"sweep": {"temprature": [2, 4]}}, ("distill",), "sweep.temprature: none of the losses has it"),
        ({"sweep": {"hard.temperature": [2]}}, ("distill",), "choose from soft.weight, soft.temperature"),
        ({"sweep": {"temperature": [2, 0]}}, ("distill",), "sweep.temperature: 0: Input should be greater"),
        ({"teachers": {"combine": "vote"}}, ("distill", "teachers", "combine"), "'mean'"),
        ({"teachers": {"combine": "weighted"}}, ("distill", "teachers"), "weighted needs `weights`"),
        ({"teachers": {"weights": [1, 2]}}, ("distill", "teachers"), "weights would have no effect here"),
        (
            {"teachers": {"each": [{"file": "a"}, {"file": "a"}]}},
            ("distill", "teachers"),
            "a is named twice",
        ),
        ({"losses": []}, ("distill", "losses"), "at least 1"),
        ({"student": {"width": 0}}, ("distill", "student", "width"), "greater than 0"),
        ({"student": {"file": "a.onnx", "width": 0.5}}, ("distill", "student"), "exclude each other"),
        ({"temperatur": 3}, ("distill", "temperatur"), "not permitted"),
    ],
)
def test_what_is_refused_and_where(distill: dict[str, Any], place: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(distill)
    (problem,) = caught.value.errors()
    assert problem["loc"] == place
    assert words in problem["msg"]


@pytest.mark.parametrize(
    "student", [{"width": 0.25}, {"file": "a.onnx"}, {"factory": "a:b", "kwargs": {"c": 1}}]
)
def test_a_recipe_survives_its_own_dump(student: dict[str, Any]) -> None:
    made = recipe({"student": student, "generations": 2, "sweep": {"temperature": [2, 4], "epochs": 1}})
    assert (
        DistillRecipe.model_validate(made.model_dump(mode="json", by_alias=True, exclude_none=True)) == made
    )


def test_what_is_left_out_of_a_student() -> None:
    shares = [recipe({"student": s}).distill.student.share for s in ({}, {"depth": 0.5}, {"units": {"a": 1}})]
    assert shares == [0.5, 1, 1]
    assert recipe({"student": {"depth": 0.5, "width": 0.25}}).distill.student.share == 0.25


def test_generations_are_born_again_unless_the_student_says_otherwise() -> None:
    again = recipe({"generations": 2}).distill.student
    assert (again.share, again.weights) == (1.0, "fresh")
    narrow = recipe({"generations": 2, "student": {"width": 0.5}}).distill.student
    assert (narrow.share, narrow.weights) == (0.5, "fresh")
    told = recipe({"generations": 2, "student": {"width": 0.5, "weights": "inherit"}}).distill.student
    assert (told.share, told.weights) == (0.5, "inherit")


def test_validation_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlcompress.distill.recipe import DistillRecipe as R; R(); R.model_json_schema();"
        "print([m for m in ('torch', 'numpy', 'onnx', 'onnxruntime', 'onnx_ir') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
