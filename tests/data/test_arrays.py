""".npz files and folders of .npy."""

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.opening import PIXELS, digits, model, npy, npz, opened, refusal

ENTRY = {"inputs": {"image": "x"}, "label": "y", "transforms": PIXELS}


def by_hand(x: np.ndarray) -> np.ndarray:
    return ((x[:, None] / 255 - 0.286) / 0.353).astype(np.float32)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_npz_in_every_packing_gives_the_arrays(tmp_path: Path, packing: int) -> None:
    arrays = digits()
    data = opened({"path": npz(tmp_path / "a.npz", packing, **arrays), **ENTRY}, labels=True)
    batch = data.take(np.array([3, 0, 39]))
    # float32 against float64 arithmetic on values up to 3: three roundings of 2**-24 each
    np.testing.assert_allclose(batch.inputs["image"], by_hand(arrays["x"][[3, 0, 39]]), rtol=0, atol=1e-6)
    assert batch.inputs["image"].dtype == np.float32
    assert batch.inputs["image"].flags.c_contiguous
    assert batch.labels is not None
    assert batch.labels.tolist() == arrays["y"][[3, 0, 39]].tolist()
    assert batch.ids.tolist() == [3, 0, 39]


def test_folder_of_npy_gives_the_same_batches_and_the_same_fingerprint(tmp_path: Path) -> None:
    packed = opened({"path": npz(tmp_path / "a.npz", **digits()), **ENTRY})
    mapped = opened({"path": npy(tmp_path / "folder", **digits()), **ENTRY})
    assert mapped.origin.kind == "npy"
    np.testing.assert_array_equal(
        mapped.take(np.arange(9)).inputs["image"], packed.take(np.arange(9)).inputs["image"]
    )
    assert mapped.fingerprint == packed.fingerprint


def test_big_endian_and_column_major_arrays_are_read(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(24, dtype=">f4").reshape(4, 6))
    data = opened({"path": npz(tmp_path / "a.npz", x=x)}, model(x=("float32", ("N", 6))))
    batch = data.take(np.arange(4)).inputs["x"]
    assert batch.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(batch, np.arange(24).reshape(4, 6))


def test_batches_are_writable_and_independent_of_the_file(tmp_path: Path) -> None:
    data = opened(
        {"path": npy(tmp_path / "folder", x=np.ones((4, 3), np.float32))}, model(x=("float32", ("N", 3)))
    )
    data.take(np.arange(4)).inputs["x"][:] = 9  # torch.from_numpy warns about arrays that cannot be written
    np.testing.assert_array_equal(data.take(np.arange(4)).inputs["x"], np.ones((4, 3)))


def test_memory_of_a_mapped_folder_is_that_of_a_batch(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    stored = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=(50_000, 1, 28, 28))
    stored[::1000] = 1
    stored.flush()
    del stored
    tracemalloc.start()
    data = opened({"path": str(folder), "inputs": {"image": "x"}, "transforms": [{"scale": 1 / 255}]})
    total = sum(float(batch.inputs["image"].sum()) for batch in data.batches(64))
    assert data.fingerprint
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == pytest.approx(50 * 784 / 255, rel=1e-4)
    # 39 MB of pixels; a batch is 0.05 MB stored and 0.2 MB as floats, hashing holds 3 pieces of 1 MB
    assert peak < 5 << 20


def test_a_broken_array_that_is_not_used_does_no_harm(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=np.zeros((4, 3), np.float32), meta=np.array([{"a": 1}], object))
    assert len(opened({"path": path}, model(x=("float32", ("N", 3))))) == 4


def test_constants_scalar_and_state(tmp_path: Path) -> None:
    """A recurrent speech model: samples, a state whose second axis is the batch, a scalar rate."""
    speech = model(None, input=("float32", ("N", 576)), state=("float32", (2, "N", 128)), sr=("int64", ()))
    arrays = {
        "input": np.zeros((7, 576), np.float32),
        "state": np.arange(256, dtype=np.float32).reshape(2, 1, 128),
        "sr": np.array(16000),
    }
    data = opened({"path": npz(tmp_path / "a.npz", **arrays)}, speech)
    batch = next(data.batches(3))
    assert batch.constants == {"state", "sr"}
    assert batch.inputs["sr"].shape == ()
    assert batch.inputs["sr"] == 16000
    assert batch.inputs["state"].shape == (2, 3, 128)
    np.testing.assert_array_equal(batch.inputs["state"][:, 2], arrays["state"][:, 0])
    assert len(data) == 7
    batch.inputs["sr"] += 1
    assert next(data.batches(3)).inputs["sr"] == 16000


def test_fixed_batch_of_one_reads_samples(tmp_path: Path) -> None:
    """A static first axis of 1 is a batch of one, not a constant."""
    signature = model(x=("float32", (1, 3)))
    data = opened({"path": npz(tmp_path / "a.npz", x=np.zeros((5, 3), np.float32))}, signature)
    assert len(data) == 5
    assert next(data.batches(1)).inputs["x"].shape == (1, 3)
    assert len(opened({"path": npz(tmp_path / "b.npz", x=np.zeros((1, 3), np.float32))}, signature)) == 1


def test_the_only_array_beside_the_labels_is_the_only_input(tmp_path: Path) -> None:
    arrays = digits()
    entry = {"path": npz(tmp_path / "a.npz", **arrays), "label": "y", "transforms": PIXELS}
    named = opened({**entry, "inputs": {"image": "x"}})
    found = opened(entry)
    batch, wanted = (data.take(np.arange(40)) for data in (found, named))
    assert np.array_equal(batch.inputs["image"], wanted.inputs["image"])
    assert found.origin.notes == ("data.train.inputs: array 'x' is taken for input 'image', the only one",)
    assert named.origin.notes == ()


def test_of_two_arrays_none_is_guessed(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", **digits(), mask=np.ones(40, np.float32))
    (line,) = refusal({"path": path, "label": "y", "transforms": PIXELS})
    assert "no array for model input 'image'" in line
    assert "write `inputs: {image: x}`" in line


def test_inputs_are_matched_by_their_own_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 9, (6, 5)), np.ones((6, 5), np.int64)
    encoder = model(None, ids=("int64", ("N", "T")), mask=("int64", ("N", "T")))
    batch = opened({"path": npz(tmp_path / "a.npz", mask=mask, ids=ids)}, encoder).take(np.arange(6))
    np.testing.assert_array_equal(batch.inputs["ids"], ids)
    np.testing.assert_array_equal(batch.inputs["mask"], mask)
