"""Recipe file, `extends` and `--set` become one validated recipe, or all problems at once."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from mlcompress.errors import RecipeError, UsageError
from mlcompress.recipe.base import Section
from mlcompress.recipe.load import load
from mlcompress.recipe.sections import Shared
from mlcompress.registry import Registry

criteria = Registry("criterion")


@criteria
def l2(weight: float) -> None:
    """Norm."""


@criteria
def taylor(weight: "NotImported", *, order: Annotated[int, Field(ge=1, le=2)] = 1) -> None:  # noqa: F821
    """Weight times gradient."""


class Prune(Section):
    ratio: float = 0.5
    criterion: criteria.annotation() = criteria.choose("l2")  # type: ignore[valid-type]


class Recipe(Shared):
    prune: Prune = Prune()


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def problems(path: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises((RecipeError, UsageError)) as caught:
        load(path, Recipe, overrides)
    return caught.value.lines


def test_no_recipe_means_defaults() -> None:
    recipe = load(None, Recipe)
    assert recipe.train.epochs == 5
    assert recipe.prune.criterion.name == "l2"


def test_a_method_is_a_name_or_a_mapping() -> None:
    path = write("r.yaml", "prune: {criterion: {name: taylor, order: 2}}\ntrain: {optimizer: adam}\n")
    recipe = load(path, Recipe)
    assert criteria.bind(recipe.prune.criterion).keywords == {"order": 2}
    assert recipe.train.optimizer.name == "adam"


def test_all_problems_at_once_with_lines_and_suggestions() -> None:
    path = write(
        "r.yaml",
        "version: 1\nprune:\n  ratoi: 0.4\n  criterion: {name: taylor, ordr: 2}\ntrain:\n  optimizer: adm\n  epochs: x\nquantize: {}\n",
    )
    assert set(problems(path)) == {
        "r.yaml:3: prune.ratoi: unknown key; did you mean 'ratio'?",
        "r.yaml:4: prune.criterion.ordr: unknown key; did you mean 'order'?",
        "r.yaml:6: train.optimizer: 'adm' is not known; did you mean 'adam'?",
        "r.yaml:7: train.epochs: input should be a valid integer, unable to parse string as an integer (got 'x'); change it",
        "r.yaml:8: quantize: unknown key; this section belongs in the recipe of `mlcompress quantize`",
    }


def test_an_unknown_method_suggests_one() -> None:
    path = write("r.yaml", "prune: {criterion: taylr}\n")
    assert problems(path) == ("r.yaml:1: prune.criterion: 'taylr' is not known; did you mean 'taylor'?",)


def test_set_wins_and_is_named_in_messages() -> None:
    path = write("r.yaml", "prune: {ratio: 0.3, criterion: taylor}\n")
    recipe = load(path, Recipe, ["prune.ratio=0.7", "prune.criterion.order=2", "train.optimizer.lr=1e-3"])
    assert recipe.prune.ratio == 0.7
    assert recipe.prune.criterion.options() == {"order": 2}
    assert recipe.train.optimizer.lr == 1e-3
    assert problems(path, "prune.criterion.order=3")[0].startswith(
        "--set prune.criterion.order=3: prune.criterion.order:"
    )


@pytest.mark.parametrize("override", ["prune.ratio", "=3", "a..b=1", "prune.ratio.x=1"])
def test_a_malformed_set_is_a_usage_error(override: str) -> None:
    path = write("r.yaml", "prune: {ratio: 0.3}\n")
    assert problems(path, override)[0].startswith(f"--set {override}: ")


def test_extends_merges_key_by_key_and_replaces_methods() -> None:
    write(
        "base.yaml",
        "seed: 3\ntrain: {epochs: 9, batch_size: 4}\nprune: {criterion: {name: taylor, order: 2}}\n",
    )
    path = write("r.yaml", "extends: base.yaml\ntrain: {epochs: 2}\nprune: {criterion: {name: l2}}\n")
    recipe = load(path, Recipe)
    assert (recipe.seed, recipe.train.epochs, recipe.train.batch_size) == (3, 2, 4)
    assert recipe.prune.criterion.options() == {}


def test_messages_name_the_file_that_holds_the_mistake() -> None:
    write("base.yaml", "train:\n  epochs: 0\n")
    path = write("r.yaml", "extends: base.yaml\nseed: -1\n")
    assert sorted(line.split(": ")[0] for line in problems(path)) == ["base.yaml:2", "r.yaml:2"]


def test_a_circle_of_extends_is_refused() -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: a.yaml\n")
    assert problems("a.yaml") == (
        "a.yaml: extends: goes in a circle (a.yaml -> b.yaml -> a.yaml); remove one link",
    )


def test_a_missing_file_is_one_line() -> None:
    assert problems("none.yaml") == (
        "none.yaml: cannot read the recipe (No such file or directory); check the path",
    )


def test_transforms_and_augmentations_have_one_key_each() -> None:
    path = write(
        "r.yaml", "data:\n  train:\n    path: x.npz\n    transforms:\n      - {scale: 2, layout: NCHW}\n"
    )
    (line,) = problems(path)
    assert line.startswith("r.yaml:5: data.train.transforms.0: one transform per list entry")


def test_adaptive_optimizers_have_a_rate_of_their_own() -> None:
    assert load(None, Recipe, ["train.optimizer=adamw"]).train.optimizer.lr == 1e-3
    assert load(None, Recipe, ["train.optimizer={name: adam, lr: 0.01}"]).train.optimizer.lr == 0.01
    assert load(None, Recipe, ["train.optimizer=sgd"]).train.optimizer.lr == 0.05


@pytest.mark.parametrize(
    ("text", "idle"),
    [
        ("train: {optimizer: {name: adam, momentum: 0.8}}", "momentum"),
        ("train: {optimizer: {betas: [0.9, 0.99]}}", "betas"),
        ("train: {schedule: {milestones: [0.5], gamma: 0.2}}", "milestones and gamma"),
    ],
)
def test_a_key_without_effect_is_refused(text: str, idle: str) -> None:
    (line,) = problems(write("r.yaml", text))
    assert f"{idle} would have no effect here; leave it out" in line


def test_keys_of_later_versions_are_called_so() -> None:
    path = write("r.yaml", "prune: {target: {macs: 0.5}}\nshare: {}\n")
    assert set(problems(path)) == {
        "r.yaml:1: prune.target: is not in this version; leave it out",
        "r.yaml:2: share: is not in this version; leave it out",
    }
