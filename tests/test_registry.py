"""A function is a method; its keyword-only arguments are its options."""

import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError

from mlcompress.registry import Registry


def make() -> Registry:
    registry = Registry("criterion")

    @registry
    def l2(weight: float) -> str:
        """Norm of the weights.

        More text.
        """
        return f"l2 of {weight}"

    @registry
    def taylor(weight: "Missing", *, order: Annotated[int, Field(ge=1, le=2)] = 1) -> str:  # noqa: F821
        """Weight times gradient."""
        return f"taylor {order} of {weight}"

    return registry


def parse(registry: Registry, value: object) -> object:
    model = type("Holder", (BaseModel,), {"__annotations__": {"criterion": registry.annotation()}})
    return registry.bind(model.model_validate({"criterion": value}).criterion)("w")  # type: ignore[attr-defined]


def test_name_and_mapping_choose_the_same_function() -> None:
    registry = make()
    assert parse(registry, "l2") == "l2 of w"
    assert parse(registry, {"name": "taylor", "order": 2}) == "taylor 2 of w"


@pytest.mark.parametrize(
    "value", ["l3", {"name": "taylor", "order": 3}, {"name": "l2", "order": 1}, {"order": 1}, 5]
)
def test_wrong_choices_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        parse(make(), value)


def test_a_second_function_of_one_name_is_refused() -> None:
    registry = make()
    with pytest.raises(ValueError, match="registered twice"):

        @registry
        def l2(weight: float) -> None:
            """Again."""


def test_a_method_without_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match="no docstring"):

        @make()
        def bare(weight: float) -> None: ...


def test_summary_is_the_first_paragraph() -> None:
    assert make().summary("l2") == "Norm of the weights."


def test_recipes_of_every_stage_validate_without_torch() -> None:
    code = (
        "import sys; from mlcompress.stages import NAMES, find\n"
        "for name in NAMES: find(name).schema.model_json_schema()\n"
        "sys.exit(' '.join(m for m in ('torch', 'onnxruntime') if m in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert done.returncode == 0
