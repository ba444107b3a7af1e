"""Inputs of several runs: other batches, other lengths, other samples."""

import numpy as np

from mlcompress.data.dataset import from_arrays
from mlcompress.graph import Signature, Tensor
from mlcompress.measure.examples import Feed, examples

FLOAT, WHOLE = np.dtype(np.float32), np.dtype(np.int64)
NET = Signature(
    (Tensor("ids", WHOLE, ("N", "time")), Tensor("x", FLOAT, ("N", "time", 8)), Tensor("k", FLOAT, (2, None))), ()
)  # fmt: skip
USUAL = {"ids": (1, 6), "x": (1, 6, 8), "k": (2, 10)}


def shapes(feeds: list[Feed]) -> list[dict[str, tuple[int, ...]]]:
    return [{name: array.shape for name, array in feed.items()} for feed in feeds]


def test_the_batch_differs_in_every_run_and_other_lengths_in_the_second():
    found = shapes(examples(NET, USUAL, (), None, lambda feed: True))
    assert found == [
        {"ids": (2, 6), "x": (2, 6, 8), "k": (2, 10)},
        {"ids": (3, 3), "x": (3, 3, 8), "k": (2, 5)},
        {"ids": (1, 6), "x": (1, 6, 8), "k": (2, 10)},
    ]


def test_lengths_that_the_model_refuses_are_not_used():
    assert shapes(examples(NET, USUAL, (), None, lambda feed: feed["x"].shape[1] >= 6))[1]["x"] == (3, 12, 8)
    assert shapes(examples(NET, USUAL, (), None, lambda feed: feed["x"].shape[1] == 6))[1]["x"] == (3, 6, 8)


def test_lengths_that_the_recipe_gives_are_kept_with_every_axis_of_their_name():
    found = shapes(examples(NET, USUAL, ["ids"], None, lambda feed: True))[1]
    assert found == {"ids": (3, 6), "x": (3, 6, 8), "k": (2, 5)}


def test_samples_are_used_where_they_fit_and_differ_between_runs():
    data = from_arrays({"ids": np.arange(24, dtype=np.int64).reshape(4, 6)}, None, name="data")
    first, second, third = examples(NET, USUAL, ["ids"], data, lambda feed: True)
    np.testing.assert_array_equal(first["ids"], np.arange(12).reshape(2, 6))
    np.testing.assert_array_equal(second["ids"][:2], np.arange(12, 24).reshape(2, 6))
    np.testing.assert_array_equal(third["ids"], np.arange(6, 12).reshape(1, 6))  # over again
    assert first["x"].dtype == FLOAT
    assert not np.array_equal(first["x"][0], second["x"][0])


def test_made_up_integers_are_zeros_and_ones():
    (ids, *_) = (feed["ids"] for feed in examples(NET, USUAL, (), None, lambda feed: True))
    assert set(ids.ravel().tolist()) == {0, 1}
