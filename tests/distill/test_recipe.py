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
    assert (section.student.width, section.student.weights, section.cache) == (0.5, "inherit", True)
    assert [(one.name, one.weight) for one in section.losses] == [("soft", 0.9), ("hard", 0.1)]
    assert section.losses[0].options() == {"temperature": 4.0}


def test_forms_of_students_and_losses() -> None:
    assert recipe({"student": "small.onnx"}).distill.student.file == "small.onnx"
    section = recipe({"losses": ["soft", {"name": "hard", "label_smoothing": 0.1, "weight": 0.5}]}).distill
    assert [one.weight for one in section.losses] == [1.0, 0.5]
    assert section.losses[1].options() == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("distill", "place", "words"),
    [
        ({"student": {"depth": 0.5}}, ("distill", "student", "depth"), "is not available in this version"),
        ({"generations": 3}, ("distill", "generations"), "is not available in this version"),
        ({"sweep": {"temperature": [2, 4]}}, ("distill", "sweep"), "is not available in this version"),
        ({"teachers": {"combine": "weighted"}}, ("distill", "teachers", "combine"), "'mean'"),
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


def test_a_recipe_survives_its_own_dump() -> None:
    made = recipe({"student": {"width": 0.25}})
    assert (
        DistillRecipe.model_validate(made.model_dump(mode="json", by_alias=True, exclude_none=True)) == made
    )


def test_later_keys_are_not_offered() -> None:
    definitions = DistillRecipe.model_json_schema()["$defs"]
    assert "depth" not in definitions["StudentSection"]["properties"]
    assert {"student", "losses", "teachers", "cache"} == definitions["DistillSection"]["properties"].keys()


def test_validation_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlcompress.distill.recipe import DistillRecipe as R; R(); R.model_json_schema();"
        "print([m for m in ('torch', 'numpy', 'onnx', 'onnxruntime', 'onnx_ir') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
