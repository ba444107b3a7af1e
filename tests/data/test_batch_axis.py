"""Inputs whose batch is not the first axis, as the state of a recurrent net: [layers, batch, units]."""

from pathlib import Path

import numpy as np

from mlcompress.data import split
from tests.data.opening import model, npz, opened, refusal

SIGNATURE = model(
    x=("float32", ("batch", 6)), state=("float32", (2, "batch", 3)), rate=("int64", ()), classes=None
)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((10, 6)).astype(np.float32)
STATES = RNG.standard_normal((10, 2, 3)).astype(np.float32)
RATE = np.array(16000)


def test_a_state_for_each_sample_goes_where_the_model_wants_the_batch(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=X, state=STATES, rate=RATE)
    data = opened({"path": path}, SIGNATURE)
    ids = np.array([7, 0, 3])
    batch = data.take(ids)
    np.testing.assert_array_equal(batch.inputs["state"], np.stack([STATES[i] for i in ids], axis=1))
    assert batch.inputs["state"].flags.c_contiguous
    assert batch.inputs["rate"] == 16000
    assert "state" in batch.constants  # augmentation takes the first axis for the samples
    part, _ = split(data, 0.5, 0)
    assert part.take(np.arange(2)).inputs["state"].shape == (2, 2, 3)


def test_one_state_for_all_samples_is_repeated(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=X, state=STATES[0][:, None], rate=RATE)
    state = opened({"path": path}, SIGNATURE).take(np.arange(4)).inputs["state"]
    np.testing.assert_array_equal(state, np.repeat(STATES[0][:, None], 4, axis=1))


def test_states_of_another_shape_are_refused(tmp_path: Path) -> None:
    """With the batch second, [10, 3, 3] fits the last axes of [2, batch, 3] and yet is no state."""
    path = npz(tmp_path / "a.npz", x=X, state=np.zeros((10, 3, 3), np.float32), rate=RATE)
    (line,) = refusal({"path": path}, SIGNATURE)
    assert "gives samples [3, 3], the model takes [2, 3]" in line


def test_nan_in_a_state_names_the_sample(tmp_path: Path) -> None:
    states = STATES.copy()
    states[4, 1, 2] = np.nan
    (line,) = refusal({"path": npz(tmp_path / "a.npz", x=X, state=states, rate=RATE)}, SIGNATURE)
    assert "sample 4" in line


def test_what_is_missing_is_described_and_nothing_else_is_offered_for_it(tmp_path: Path) -> None:
    state, rate = refusal({"path": npz(tmp_path / "a.npz", x=X)}, SIGNATURE)
    assert "add 'state', one float32 [2, batch, 3] for all samples" in state
    assert "or one a sample: float32 [samples, 2, 3]" in state
    assert "add 'rate', one int64 [] for all samples" in rate
    two = model(x=("float32", ("N", 6)), mask=("float32", ("N", 6)))
    (line,) = refusal({"path": npz(tmp_path / "b.npz", x=X, y=np.zeros(10))}, two)
    assert "add an array 'mask'" in line  # not `mask: x`, which is another input's
