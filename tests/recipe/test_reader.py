"""YAML as recipes want it: numbers are numbers, words are words, and what is refused says so."""

import pytest

from mlcompress.errors import RecipeError
from mlcompress.recipe.reader import parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e3", 1000.0),
        ("5", 5),
        ("-3", -3),
        (".5", 0.5),
        ("no", "no"),
        ("off", "off"),
        ("2:30", "2:30"),
        ("2:4", "2:4"),
        ("true", True),
        ("~", None),
        ("2026-11-24", "2026-11-24"),
        ("[cpu, openvino]", ["cpu", "openvino"]),
        ("'1e-4'", "1e-4"),
    ],
)
def test_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_every_value_knows_its_line() -> None:
    document = parse(
        "version: 1\ntrain:\n  epochs: 3\ndistill:\n  losses:\n    - hard\n    - soft\n", "r.yaml"
    )
    assert document.origin[("train", "epochs")] == "r.yaml:3"
    assert document.origin[("distill", "losses", 1)] == "r.yaml:7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &x 1\nb: *x",
            "r.yaml:1: not a valid recipe: anchors and aliases are not used in recipes; mend this line",
        ),
        ("a: 1\nb: 2\na: 3", "r.yaml:3: a: given twice; remove one"),
        ("- 1", "r.yaml:1: a recipe is a mapping of sections; begin with `version: 1`"),
        (
            "a:\n\t- b",
            "r.yaml:2: not a valid recipe: found character '\\t' that cannot start any token; mend this line",
        ),
        (
            "a: !!python/object/apply:os.system [true]",
            "r.yaml:1: not a valid recipe: tags are not used in recipes; mend this line",
        ),
        ("[" * 2000, "r.yaml:1: not a valid recipe: nested deeper than 32 levels; mend this line"),
        ("a: 1\n---\nb: 2", "r.yaml:2: not a valid recipe: but found another document; mend this line"),
    ],
)
def test_refusals_are_one_line_with_a_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")
    assert caught.value.lines == (message,)


def test_a_billion_laughs_are_not_expanded() -> None:
    bomb = "a: &a [x]\n" + "".join(f"b{i}: &b{i} [{', '.join(['*a'] * 9)}]\n" for i in range(9))
    with pytest.raises(RecipeError, match="anchors and aliases"):
        parse(bomb, "r.yaml")
