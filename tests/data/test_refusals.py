"""Bad input: each case ends with the exact line that tells what to do, and never with a traceback."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.opening import PIXELS, digits, model, npz, opened, refusal

GOOD = {"inputs": {"image": "x"}, "label": "y", "transforms": PIXELS}
THREE = model(3, x=("float32", ("N", 3)))
X = np.zeros((4, 3), np.float32)
P = "data.train.path: "


@pytest.mark.parametrize(
    ("entry", "lines"),
    [
        ({}, ["data.train: names no source; give exactly one of path, images, table, python, synthetic"]),
        (
            {"path": "a.npz", "table": "b.csv"},
            ["data.train: names path and table; give exactly one of path, images, table, python, synthetic"],
        ),
        (
            {"synthetic": False},
            ["data.train: names no source; give exactly one of path, images, table, python, synthetic"],
        ),
        (
            {"path": "a.npz", "size": 3, "kwargs": {"a": 1}},
            [
                "data.train.size: means nothing with `path`; remove it",
                "data.train.kwargs: means nothing with `path`; remove it",
            ],
        ),
        ({"images": "a", "label": "y"}, ["data.train.label: means nothing with `images`; remove it"]),
        ({"table": "a.csv", "size": 2}, ["data.train.size: means nothing with `table`; remove it"]),
        (
            {"synthetic": True, "transforms": [{"scale": 2}]},
            ["data.train.transforms: means nothing with `synthetic`; remove it"],
        ),
        (
            {"path": "a.npz", "inputs": {"x": ["a", "b"]}},
            ["data.train.inputs.x: a list of columns is for `table`; name one array"],
        ),
        ({"table": "a.csv", "inputs": {"x": []}}, ["data.train.inputs.x: no columns"]),
        ({"path": "nowhere.npz"}, [P + "nowhere.npz: no such file or folder"]),
        ({"images": "nowhere"}, ["data.train.images: nowhere: no such folder"]),
    ],
)
def test_entries_that_are_wrong_by_themselves(entry: dict[str, Any], lines: list[str]) -> None:
    assert refusal(entry) == lines


IMAGE_HAS = "the data has x uint8 [40, 28, 28], y int64 [40]"
HINT = "for pixels write `transforms: [{scale: 0.00392157}, ...]`"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"inputs": {"image": "xx"}}, [f"data.train.inputs.image: no array 'xx'; {IMAGE_HAS}"]),
        (
            {"inputs": {"image": "x", "picture": "x"}},
            ["data.train.inputs.picture: no such model input; the model has 'image' float32 [N, 1, 28, 28]"],
        ),
        (
            {"transforms": [{"layout": "NCHW"}]},
            [f"data.train.inputs.image: 'x' gives uint8, the model takes float32; {HINT}"],
        ),
        (
            {"transforms": PIXELS[:1]},
            [
                "data.train.inputs.image: 'x' gives samples [28, 28], the model takes [1, 28, 28]; "
                "add `{layout: NCHW}` to `transforms`"
            ],
        ),
        (
            {"transforms": None},
            [
                f"data.train.inputs.image: 'x' gives uint8, the model takes float32; {HINT}",
                "data.train.inputs.image: 'x' gives samples [28, 28], the model takes [1, 28, 28]; "
                "add `{layout: NCHW}` to `transforms`",
            ],
        ),
        (
            {"transforms": [*PIXELS, {"cast": "int64"}]},
            ["data.train.transforms: cast changes no input of this model; remove it"],
        ),
        (
            {"transforms": [*PIXELS, {"cast": "float16"}]},
            [
                "data.train.inputs.image: 'x' gives float16, the model takes float32; "
                "add `{cast: float32}` to `transforms`"
            ],
        ),
        (
            {"transforms": [{"crop": 30}, *PIXELS]},
            [
                "data.train.transforms: input 'image': crop: 30 is larger than the images, 28 x 28; "
                "resize first or crop less"
            ],
        ),
        ({"label": "z"}, [f"data.train.label: no array 'z'; {IMAGE_HAS}; write `label: NAME`"]),
        (
            {"label": "x"},
            [
                "data.train.label: 'x' is int64 [40, 28, 28]; give one class id per sample, "
                "not one column per class"
            ],
        ),
    ],
)
def test_arrays_that_do_not_fit_the_model(tmp_path: Path, change: dict[str, Any], lines: list[str]) -> None:
    path = npz(tmp_path / "a.npz", **digits())
    assert len(opened({"path": path, **GOOD}, labels=True)) == 40  # the control: unchanged, it opens
    entry = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    assert refusal({"path": path, **entry}, labels=True) == lines


NAN = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, 0).astype(np.float32)
L = "data.train.label: "


@pytest.mark.parametrize(
    ("arrays", "lines"),
    [
        ({"x": NAN}, ["data.train.inputs.x: NaN or infinity in sample 2; mend or drop that sample"]),
        (
            {"x": np.full((4, 3), -np.inf, np.float32)},
            ["data.train.inputs.x: NaN or infinity in sample 0; mend or drop that sample"],
        ),
        ({"x": X[:0], "y": np.arange(0)}, ["data.train: no samples"]),
        (
            {"x": X.astype(np.float64)},
            [
                "data.train.inputs.x: 'x' gives float64, the model takes float32; "
                "add `{cast: float32}` to `transforms`"
            ],
        ),
        (
            {"x": X.astype(str)},
            ["data.train.inputs.x: 'x' gives text, the model takes float32; save it as float32"],
        ),
        (
            {"x": X > 0},
            [
                "data.train.inputs.x: 'x' gives bool, the model takes float32; "
                "add `{cast: float32}` to `transforms`"
            ],
        ),
        ({"x": X[:, :2]}, ["data.train.inputs.x: 'x' gives samples [2], the model takes [3]"]),
        ({"x": np.float32(1)}, ["data.train.inputs.x: 'x' is one number; give one per sample"]),
        ({"y": np.arange(3)}, [L + "'y' has 3 rows for 4 samples; give one label per sample"]),
        ({"y": np.int64(3)}, [L + "'y' is one number; give one label per sample"]),
        (
            {"y": np.array([0, 1, 2, 3])},
            [L + "label 3 is not one of the model's classes 0 ... 2 (1 of 4 samples)"],
        ),
        (
            {"y": np.array([0, -1, 2, -1])},
            [L + "label -1 is not one of the model's classes 0 ... 2 (2 of 4 samples)"],
        ),
        ({"y": np.zeros(4)}, [L + "'y' is float32 [4]; class labels are whole numbers, one per sample"]),
        ({"y": np.array([0, 1, np.nan, 1])}, [L + "'y' has NaN or infinity; mend or drop those samples"]),
        (
            {"y": np.eye(3, dtype=int)[[0, 1, 2, 0]]},
            [L + "'y' is int64 [4, 3]; give one class id per sample, not one column per class"],
        ),
        ({"y": np.zeros(4, complex)}, [L + "'y' is complex128; labels are numbers or text"]),
        (
            {"y": np.array(["cat", "dog", "cat", "dog"])},
            [
                L
                + "2 class names (cat ... dog) for 3 classes of the model: the ids would not mean the same; "
                "use numbers, or name all 3 (for images an empty folder is enough)"
            ],
        ),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], lines: list[str]) -> None:
    path = npz(tmp_path / "a.npz", **{"x": X, "y": np.array([0, 1, 2, 0]), **arrays})
    assert refusal({"path": path}, THREE, labels=True) == lines


def test_missing_labels_and_unequal_inputs_are_told_together(tmp_path: Path) -> None:
    two = model(3, a=("float32", ("N", 3)), b=("float32", ("N", 3)))
    path = npz(tmp_path / "a.npz", a=X, b=X[:2])
    assert refusal({"path": path}, two, labels=True) == [
        "data.train.label: labels are needed and none are named; "
        "the data has a float32 [4, 3], b float32 [2, 3]; write `label: NAME`",
        "data.train: arrays have different numbers of samples (a 4, b 2); the first axis counts samples",
    ]


def test_constants_are_checked_too(tmp_path: Path) -> None:
    speech = model(None, x=("float32", ("N", 3)), rate=("int64", ()), table=("float32", (2, 2)))
    path = npz(tmp_path / "a.npz", x=X, rate=np.array(1.5), table=np.full((2, 2), np.nan, np.float32))
    assert refusal({"path": path}, speech) == [
        "data.train.inputs.rate: 'rate' is float64 [], the model takes one int64 [] for all samples",
        "data.train.inputs.table: 'table' has NaN or infinity",
    ]


def test_nan_beyond_the_first_look_is_found_when_it_comes(tmp_path: Path) -> None:
    late = np.zeros((200, 3), np.float32)
    late[150, 1] = np.inf
    data = opened({"path": npz(tmp_path / "a.npz", x=late)}, THREE)
    with pytest.raises(Exception, match=r"data.train.inputs.x: NaN or infinity in sample 150; mend or drop"):
        list(data.batches(64))


def test_models_without_samples(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", rate=np.array(1))
    assert refusal({"path": path}, model(3, rate=("int64", ()))) == [
        "data.train: all model inputs have one value for all samples; there is no data"
    ]
    nothing = replace(THREE, inputs=())
    assert refusal({"path": path}, nothing) == ["data.train: the model has no inputs to give data to"]


def test_a_model_without_input_shapes() -> None:
    signature = model(3, x=("float32", None))  # type: ignore[arg-type]
    assert refusal({"path": "a.npz"}, signature) == [
        "data.train: model input 'x' declares no shape to check data with; export it with one"
    ]
