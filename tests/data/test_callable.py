"""`python: pkg.module:function`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.opening import model, opened, refusal

THREE = model(3, x=("float32", ("N", 3)))
CODE = """
import numpy as np
def build(count=4, fill=1.0):
    return {"x": np.full((count, 3), fill, np.float32), "y": np.arange(count) % 3}
def fails(): raise KeyError("several\\nlines")
def wrong(): return [1, 2]
def objects(): return {"x": np.array([{}, []], dtype=object)}
constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the module `own_data` and one that cannot be imported."""
    (tmp_path / "own_data.py").write_text(CODE)
    (tmp_path / "own_broken.py").write_text("import no_such_thing_at_all")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_data", "own_broken"):
        sys.modules.pop(name, None)


def test_function_is_found_from_the_working_directory_and_gets_its_arguments(here: Path) -> None:
    path = list(sys.path)
    data = opened({"python": "own_data:build", "kwargs": {"count": 5, "fill": 2.5}}, THREE, labels=True)
    assert sys.path == path
    assert len(data) == 5
    np.testing.assert_array_equal(data.take(np.array([4])).inputs["x"], [[2.5] * 3])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 0, 1]


def test_no_code_refuses_before_importing(here: Path) -> None:
    (here / "own_data.py").write_text("open('ran', 'w')")
    assert refusal({"python": "own_data:build"}, THREE, no_code=True) == [
        "data.train.python: 'own_data:build' is code, and --no-code forbids running it; "
        "save the arrays as .npz"
    ]
    assert not (here / "ran").exists()


P = "data.train.python: "


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("own_data", P + "'own_data' is not of the form pkg.module:function"),
        ("own_data:", P + "'own_data:' is not of the form pkg.module:function"),
        ("no_such:f", P + "cannot import no_such: ModuleNotFoundError: No module named 'no_such'"),
        (
            "own_broken:f",
            P + "cannot import own_broken: ModuleNotFoundError: No module named 'no_such_thing_at_all'",
        ),
        ("own_data:nothing", P + "own_data has no function 'nothing'"),
        ("own_data:constant", P + "own_data has no function 'constant'"),
        ("own_data:fails", P + "own_data:fails raised KeyError: 'several\\nlines'"),
        ("own_data:wrong", P + "own_data:wrong returned list; return a dict of name: array"),
        ("own_data:objects", P + "own_data:objects returned Python objects under 'x'; return numeric arrays"),
    ],
)
def test_bad_functions(here: Path, reference: str, line: str) -> None:
    assert refusal({"python": reference}, THREE) == [line]


def test_wrong_arguments_are_the_functions_error(here: Path) -> None:
    (line,) = refusal({"python": "own_data:build", "kwargs": {"size": 1}}, THREE)
    assert line.startswith("data.train.python: own_data:build raised TypeError: ")
