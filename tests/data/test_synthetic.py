"""`synthetic: true`."""

import numpy as np
import pytest

from mlcompress.data import describe
from tests.data.opening import model, opened, refusal

TEXT = model(None, ids=("int64", ("N", "T")), mask=("int64", ("N", "T")))


def test_shapes_dtypes_count_and_mark() -> None:
    signature = model(
        5, image=("float32", ("N", 3, 8, 8)), small=("float16", ("N", 2)), raw=("uint8", ("N", 50))
    )
    data = opened({"synthetic": True}, signature)
    batch = data.take(np.arange(64))
    assert len(data) == 64
    assert data.synthetic
    assert describe(data)["synthetic"] is True
    assert {name: (array.dtype.name, array.shape) for name, array in batch.inputs.items()} == {
        "image": ("float32", (64, 3, 8, 8)),
        "small": ("float16", (64, 2)),
        "raw": ("uint8", (64, 50)),
    }
    # 12,288 standard normal draws: standard errors of mean and deviation are below 0.01, so 0.05 is 5 of them
    assert batch.inputs["image"].mean() == pytest.approx(0, abs=0.05)
    assert batch.inputs["image"].std() == pytest.approx(1, abs=0.05)
    assert batch.inputs["raw"].max() > 200


def test_values_depend_on_seed_and_sample_only() -> None:
    few, many = opened({"synthetic": True, "samples": 5}), opened({"synthetic": True, "limit": 50})
    other = opened({"synthetic": True, "samples": 5}, seed=1)
    assert (len(few), len(many)) == (5, 50)
    both = opened({"synthetic": True, "samples": 5, "limit": 50})
    assert both.fingerprint == few.fingerprint
    np.testing.assert_array_equal(
        few.take(np.array([4])).inputs["image"], many.take(np.array([4])).inputs["image"]
    )
    assert not np.array_equal(
        few.take(np.array([3])).inputs["image"], few.take(np.array([4])).inputs["image"]
    )
    assert few.fingerprint == opened({"synthetic": True, "samples": 5}).fingerprint
    assert few.fingerprint != other.fingerprint


def test_dynamic_axes_need_a_size() -> None:
    lines = refusal({"synthetic": True}, TEXT)
    assert lines[0] == (
        "data.train.synthetic: input 'ids' int64 [N, T] has dynamic axes, and random data cannot "
        "choose their sizes; write `measure: {shapes: {ids: [1, ...]}}`"
    )
    assert len(lines) == 2
    data = opened({"synthetic": True}, TEXT, shapes={"ids": [1, 7], "mask": [1, 7]})
    ids = data.take(np.arange(64)).inputs["ids"]
    assert ids.shape == (64, 7)
    assert set(np.unique(ids)) == {0, 1}


def test_inputs_without_a_batch_axis_are_constants() -> None:
    signature = model(None, x=("float32", ("N", 4)), state=("float32", (2, "N", 3)), rate=("int64", ()))
    batch = next(opened({"synthetic": True}, signature).batches(6))
    assert batch.constants == {"state", "rate"}
    assert batch.inputs["state"].shape == (2, 6, 3)
    assert batch.inputs["rate"].shape == ()


def test_no_labels() -> None:
    assert refusal({"synthetic": True}, labels=True) == [
        "data.train.label: synthetic data has no labels; name real data"
    ]
