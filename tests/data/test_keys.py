"""Keys that an entry takes from `train`."""

from typing import Any

import pytest

from mlcompress.data import inherit
from mlcompress.recipe.sections import DataEntry

STEPS = [{"scale": 0.5}]
ARRAYS = {
    "path": "t.npz",
    "inputs": {"image": "x"},
    "label": "y",
    "transforms": STEPS,
    "limit": 9,
    "samples": 5,
}
PICTURES = {"images": "t", "inputs": {"x": "image"}, "size": 32, "transforms": STEPS}
TABLE = {"table": "t.csv", "inputs": {"x": ["a"]}, "label": "y", "transforms": STEPS}
CODE = {"python": "m:f", "kwargs": {"a": 1}, "inputs": {"image": "x"}, "label": "y", "transforms": STEPS}


def given(entry: DataEntry) -> dict[str, Any]:
    return entry.model_dump(exclude_unset=True, exclude_none=True)


@pytest.mark.parametrize(
    ("entry", "train", "taken"),
    [
        ({"path": "e.npz"}, ARRAYS, ("inputs", "label", "transforms")),
        ({"path": "e.npz", "label": "z"}, ARRAYS, ("inputs", "transforms")),
        ({"path": "e.npz", "transforms": []}, ARRAYS, ("inputs", "label")),
        ({"path": "e.npz", "samples": 3}, ARRAYS, ("inputs", "label", "transforms")),
        ({"path": "e.npz", "inputs": {"image": "z"}}, ARRAYS, ()),
        ({"path": "e.npz"}, CODE, ("inputs", "label", "transforms")),
        ({"python": "m:g"}, CODE, ("inputs", "label", "transforms")),
        ({"images": "e"}, PICTURES, ("inputs", "size", "transforms")),
        ({"images": "e"}, ARRAYS, ("transforms",)),
        ({"path": "e.npz"}, PICTURES, ("transforms",)),
        ({"table": "e.csv"}, TABLE, ("inputs", "label", "transforms")),
        ({"table": "e.csv"}, ARRAYS, ()),
        ({"path": "e.npz"}, TABLE, ()),
        ({"synthetic": True}, ARRAYS, ()),
        ({"path": "e.npz"}, {"synthetic": True}, ()),
    ],
)
def test_what_is_taken(entry: dict[str, Any], train: dict[str, Any], taken: tuple[str, ...]) -> None:
    full = inherit(DataEntry.model_validate(entry), DataEntry.model_validate(train))
    assert given(full) == {**entry, **{key: train[key] for key in taken}}


def test_without_train_or_without_a_source_nothing_changes() -> None:
    entry = DataEntry.model_validate({"path": "e.npz"})
    assert inherit(entry, None) == entry
    empty = DataEntry.model_validate({})
    assert inherit(empty, DataEntry.model_validate(ARRAYS)) == empty
