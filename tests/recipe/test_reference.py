"""The tables of `docs/recipes.md` are those of the schemas, and what they say is what a recipe gets."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from mlcompress import stages
from mlcompress.recipe import reader
from mlcompress.recipe.base import Section
from mlcompress.recipe.load import load
from mlcompress.recipe.reference import markdown, renew, renew_file
from mlcompress.recipe.sections import Shared
from mlcompress.registry import Registry
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "recipes.md"
SCHEMAS = [stages.find(name).schema for name in (*stages.NAMES, "report")]

criteria = Registry("criterion")


@criteria
def l2(weight: float) -> None:
    """Norm."""


@criteria
def taylor(weight: float, *, order: Annotated[int, Field(ge=1, le=2)] = 1) -> None:
    """Weight times gradient."""


class Step(Section):
    """One step."""

    factor: Annotated[float, Field(gt=0, le=1)] = Field(description="multiply | divide")


class Cut(Section):
    """What to cut."""

    criterion: criteria.annotation() = criteria.choose("taylor")  # type: ignore[valid-type]
    scope: Literal["global", "local"] = "global"
    steps: list[Step] = Field([], description="in order")
    again: Step | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    names: dict[str, list[str]] = {}
    on: bool | str = True


class Recipe(Shared):
    """A recipe."""

    cut: Cut


TABLE = """\
| key | type | default | meaning |
| --- | --- | --- | --- |
| `seed` | integer ≥ 0 | `0` | of everything random |
| `cut` | section | required | What to cut. |
| `cut.criterion` | `l2`, `taylor`; or `{name: ..., options}` | `{name: taylor, order: 1}` |  |
| `cut.scope` | `global`, `local` | `global` |  |
| `cut.steps` | list: section | `[]` | in order |
| `cut.steps.N.factor` | number > 0, ≤ 1 | required | multiply \\| divide |
| `cut.again` | as `cut.steps.N` | none | One step. |
| `cut.betas` | list: number and number | `[0.9, 0.999]` |  |
| `cut.names` | mapping: name to list: text | `{}` |  |
| `cut.on` | `true`, `false` or text | `true` |  |
"""


def test_a_table_spells_out_types_defaults_and_nested_keys() -> None:
    assert markdown(Recipe, "seed", "cut") == TABLE


def test_only_the_pieces_between_marks_are_made_anew(tmp_path: Path) -> None:
    text = "before\n<!-- generated: seed -->\nold\n<!-- end -->\nbetween\n<!-- generated: cut -->\n<!-- end -->\nafter\n"
    page = tmp_path / "page.md"
    page.write_text(text)
    renew_file(page, [Shared, Recipe])
    seed, cut = markdown(Shared, "seed"), markdown(Recipe, "cut")
    renewed = f"before\n<!-- generated: seed -->\n{seed}<!-- end -->\nbetween\n<!-- generated: cut -->\n{cut}<!-- end -->\nafter\n"
    assert page.read_text() == renewed
    assert renew(renewed, [Shared, Recipe]) == renewed


def test_a_piece_of_unknown_keys_is_an_error() -> None:
    with pytest.raises(ValueError, match="no recipe has all of: seed cut"):
        renew("<!-- generated: seed cut -->\n<!-- end -->\n", [Shared])


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert renew(text, SCHEMAS) == text, "run `make docs`"


def test_the_page_has_every_section_of_every_stage() -> None:
    shown = set(" ".join(re.findall("<!-- generated: (.*) -->", PAGE.read_text())).split())
    assert shown == {key for schema in SCHEMAS for key in schema.model_fields}


def documented() -> list[tuple[str, str]]:
    """(key, default) of the rows whose default is a value and that can be set alone."""
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    return [(key, default) for key, default in rows if ".N." not in key]


BELONGS_TO = {
    "train.optimizer.betas": "train.optimizer.name=adam",
    "train.schedule.milestones": "train.schedule.name=step",
    "train.schedule.gamma": "train.schedule.name=step",
    "prune.schedule.steps": "prune.schedule.name=iterative",
    "quantize.smooth.alpha": "quantize.smooth={}",
    "quantize.budget.over": "quantize.budget.max_bytes=10000",
}
"""Keys that are refused unless another one gives them an effect."""


def test_there_are_rows_to_check() -> None:
    assert len(documented()) > 40


@pytest.mark.parametrize(("key", "default"), documented())
def test_a_documented_default_is_what_a_recipe_gets(key: str, default: str) -> None:
    """Said aloud by `--set`, the default is accepted, and it is the value that is there without it."""
    schema = next(schema for schema in SCHEMAS if key.split(".")[0] in schema.model_fields)
    needed = ["prune.ratio=0.5"] if "prune" in schema.model_fields else []
    needed += [BELONGS_TO[key]] if key in BELONGS_TO else []
    optional = re.findall(r"^\| `([\w.]+)` \| section \| none \|", PAGE.read_text(), re.MULTILINE)
    switched_on = [f"{section}={{}}" for section in optional if key.startswith(f"{section}.")]
    silent = load(None, schema, [*switched_on, *needed])
    assert load(None, schema, [*switched_on, *needed, f"{key}={default}"]).model_dump() == silent.model_dump()


@pytest.mark.parametrize("page", ["recipes.md", "data.md"])
def test_yaml_examples_are_valid_recipes(page: str, tmp_path: Path) -> None:
    examples = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL
    )
    assert examples
    for example in examples:
        keys: set[Any] = set(yaml.safe_load(example))
        schema = next((one for one in SCHEMAS if keys <= set(one.model_fields)), None)
        assert schema is not None, f"no recipe has all of {keys}"
        path = tmp_path / "example.yaml"
        path.write_text(example)
        reader.read(str(path))
        if "prune" in schema.model_fields and "prune" not in keys:
            schema = next(one for one in SCHEMAS if "distill" in one.model_fields)
        load(str(path), schema)
