"""Batches, selection and fingerprints."""

from pathlib import Path

import numpy as np
import pytest

from mlcompress.data import Dataset, describe, from_arrays
from tests.data.opening import PIXELS, digits, model, npz, opened

ENTRY = {"inputs": {"image": "x"}, "label": "y", "transforms": PIXELS}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return npz(tmp_path / "a.npz", **digits())


def numbers(count: int = 10) -> Dataset:
    """Sample i holds the number i and has label i % 3."""
    return from_arrays({"x": np.arange(count, dtype=np.float32)[:, None]}, np.arange(count) % 3)


def test_batches_cover_all_samples_once_in_order() -> None:
    batches = list(numbers().batches(4))
    assert [len(batch.ids) for batch in batches] == [4, 4, 2]
    assert np.concatenate([batch.inputs["x"] for batch in batches])[:, 0].tolist() == list(range(10))
    assert [len(batch.ids) for batch in numbers().batches(4, drop_last=True)] == [4, 4]


def test_order_chooses_and_ids_say_what_came() -> None:
    order = np.array([7, 2, 2, 9, 0])
    batches = list(numbers().batches(2, order=order))
    assert np.concatenate([batch.ids for batch in batches]).tolist() == order.tolist()
    assert np.concatenate([batch.inputs["x"] for batch in batches])[:, 0].tolist() == order.tolist()
    labels = [batch.labels for batch in batches if batch.labels is not None]
    assert np.concatenate(labels).tolist() == (order % 3).tolist()


def test_subset_is_numbered_anew() -> None:
    part = numbers().subset(np.array([8, 3, 5])).subset(np.array([2, 0]))
    batch = part.take(np.array([0, 1]))
    assert batch.ids.tolist() == [0, 1]
    assert batch.inputs["x"][:, 0].tolist() == [5, 8]
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 2]


def test_limit_is_the_first_and_samples_are_drawn_from_them(path: str) -> None:
    everything = opened({"path": path, **ENTRY}).take(np.arange(40)).inputs["image"]
    first = opened({"path": path, **ENTRY, "limit": 12})
    np.testing.assert_array_equal(first.take(np.arange(12)).inputs["image"], everything[:12])
    drawn = opened({"path": path, **ENTRY, "limit": 12, "samples": 5})
    pixels = drawn.take(np.arange(5)).inputs["image"]
    places = [int(np.flatnonzero((everything == image).all(axis=(1, 2, 3)))[0]) for image in pixels]
    assert places == sorted(set(places))
    assert max(places) < 12


def test_samples_follow_the_seed(path: str) -> None:
    entry = {"path": path, **ENTRY, "samples": 6}
    prints = [opened(entry, seed=seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_asking_for_more_than_there_is_uses_all_and_says_so(path: str) -> None:
    data = opened({"path": path, **ENTRY, "limit": 100, "samples": 50})
    assert len(data) == 40
    assert data.origin.notes == (
        "data.train.limit: 100 asked for, 40 samples there; all of them are used",
        "data.train.samples: 50 asked for, 40 samples there; all of them are used",
    )


def test_fingerprint_is_that_of_content_and_preprocessing(tmp_path: Path, path: str) -> None:
    def of(**changes: object) -> str:
        return opened({"path": path, **ENTRY, **changes}).fingerprint

    base = of()
    assert base == of(path=npz(tmp_path / "renamed.npz", **digits()))
    changed = digits()
    changed["x"][5, 0, 0] ^= 1
    relabelled = digits()
    relabelled["y"][5] = 9
    variants = [
        of(path=npz(tmp_path / "b.npz", **changed)),
        of(path=npz(tmp_path / "c.npz", **relabelled)),
        of(transforms=[{"scale": 0.5}, *PIXELS[1:]]),
        of(limit=39),
        opened({"path": path, **ENTRY}).subset(np.arange(40)[::-1]).fingerprint,
    ]
    assert len({base, *variants}) == 6


def test_fingerprint_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    whole = opened({"path": path, **ENTRY}).fingerprint
    monkeypatch.setattr("mlcompress.data.columns.CHUNK_BYTES", 1000)
    assert opened({"path": path, **ENTRY}).fingerprint == whole


def test_labels_that_are_not_needed_are_left_out_when_unusable(tmp_path: Path) -> None:
    """Calibration needs no labels: a label named for `train` may be absent, a stray `y` may be anything."""
    three = model(3, x=("float32", ("N", 3)))
    bare = npz(tmp_path / "a.npz", x=np.zeros((4, 3), np.float32))
    assert opened({"path": bare, "label": "y"}, three).origin.notes == (
        "data.train.label: no array 'y'; no labels are needed here",
    )
    stray = npz(tmp_path / "b.npz", x=np.zeros((4, 3), np.float32), y=np.zeros(9))
    data = opened({"path": stray}, three)
    assert not data.has_labels
    assert data.origin.notes == (
        "data.train.label: 'y' has 9 rows for 4 samples; give one label per sample (left out)",
    )


@pytest.mark.parametrize(
    ("labels", "dtype", "values"),
    [
        (np.array([[0], [2], [1]], np.uint8), "int64", [0, 2, 1]),
        (np.array([True, False, True]), "int64", [1, 0, 1]),
        (np.array(["b", "a", "c"]), "int64", [1, 0, 2]),
    ],
)
def test_forms_of_class_labels(tmp_path: Path, labels: np.ndarray, dtype: str, values: list[int]) -> None:
    path = npz(tmp_path / "a.npz", x=np.zeros((3, 3), np.float32), label=labels)
    data = opened({"path": path}, model(3, x=("float32", ("N", 3))), labels=True)
    assert data.labels is not None
    assert data.labels.dtype == dtype
    assert data.labels.tolist() == values


def test_an_input_is_not_taken_for_labels(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", y=np.zeros((3, 3), np.float32), labels=np.array([2, 1, 0]))
    data = opened({"path": path}, model(3, y=("float32", ("N", 3))), labels=True)
    assert data.labels is not None
    assert data.labels.tolist() == [2, 1, 0]


def test_float_targets_are_kept_where_class_labels_are_not_needed(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=np.zeros((3, 3), np.float32), y=np.ones((3, 2)))
    data = opened({"path": path}, model(2, x=("float32", ("N", 3))))
    assert data.labels is not None
    assert data.labels.dtype == np.float32
    assert data.labels.shape == (3, 2)


def test_labels_are_judged_by_the_output_that_is_named(tmp_path: Path) -> None:
    from mlcompress.graph import Signature, Tensor

    one = model(2, x=("float32", ("N", 3)))
    both = Signature(one.inputs, (*one.outputs, Tensor("fine", np.dtype("float32"), ("N", 50))))
    path = npz(tmp_path / "a.npz", x=np.zeros((3, 3), np.float32), y=np.array([0, 40, 7]))
    assert opened({"path": path}, both, labels=True, output="fine").has_labels


def test_description_for_the_card(path: str) -> None:
    data = opened({"path": path, "inputs": {"image": "x"}, "transforms": PIXELS}, labels=True)
    assert describe(data) == {
        "samples": 40,
        "source": "npz",
        "fingerprint": data.fingerprint,
        "synthetic": False,
        "labels": 40,
        "classes": 10,
        "notes": ["data.train.label: labels come from 'y'"],
    }
    assert len(data.fingerprint) == 64


def test_data_modules_import_neither_torch_nor_the_extras() -> None:
    import subprocess
    import sys

    program = (
        "import sys, mlcompress.data.open, mlcompress.data.augment;"
        "print(sorted({'torch', 'PIL', 'pyarrow', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
