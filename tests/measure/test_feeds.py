import numpy as np
import pytest

from mlcompress.data.dataset import from_arrays
from mlcompress.errors import DataError
from mlcompress.graph import Signature, Tensor
from mlcompress.measure import feeds
from mlcompress.recipe.sections import Measure

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def takes(*inputs: Tensor) -> Signature:
    return Signature(inputs, ())


IMAGE = Tensor("image", F32, ("batch", 1, 4, 4))
TEXT = takes(Tensor("ids", I64, ("N", "T")), Tensor("mask", I64, ("N", "T")))


def test_the_batch_is_the_first_axis() -> None:
    made = feeds.make(takes(IMAGE), Measure(batch_size=3))
    assert made.inputs["image"].shape == (3, 1, 4, 4)
    assert made.inputs["image"].dtype == np.float32
    assert made.sources == {"image": "seeded"}


def test_seeded_inputs_are_the_same_every_time_and_follow_the_seed() -> None:
    one, again, other = (feeds.make(takes(IMAGE), Measure(), seed=seed).inputs["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_integers_are_ones() -> None:
    made = feeds.make(takes(Tensor("ids", I64, ("N", 5)), Tensor("on", np.dtype(bool), (1,))), Measure())
    assert made.inputs["ids"].tolist() == [[1] * 5]
    assert made.inputs["on"].tolist() == [True]
    assert made.inputs["ids"].dtype == np.int64


def test_real_samples_are_the_first_ones() -> None:
    images = np.arange(5 * 16, dtype=np.float32).reshape(5, 1, 4, 4)
    made = feeds.make(takes(IMAGE), Measure(batch_size=2), from_arrays({"image": images}))
    np.testing.assert_array_equal(made.inputs["image"], images[:2])
    assert made.sources == {"image": "data"}
    # Seven samples of five: they begin again.
    more = feeds.make(takes(IMAGE), Measure(batch_size=7), from_arrays({"image": images}))
    np.testing.assert_array_equal(more.inputs["image"], images[[0, 1, 2, 3, 4, 0, 1]])


def test_samples_of_another_dtype_or_shape_are_not_used() -> None:
    wrong_dtype = from_arrays({"image": np.zeros((2, 1, 4, 4), np.uint8)})
    wrong_shape = from_arrays({"image": np.zeros((2, 1, 5, 5), np.float32)})
    for data in (wrong_dtype, wrong_shape):
        assert feeds.make(takes(IMAGE), Measure(), data).sources == {"image": "seeded"}


def test_a_free_axis_without_a_length_names_the_line_to_write() -> None:
    with pytest.raises(DataError) as problem:
        feeds.make(TEXT, Measure(batch_size=2))
    assert problem.value.lines == (
        "measure.shapes: input 'ids' [N, T] has an axis of no fixed length; "
        "write for example `measure: {shapes: {ids: [2, 64]}}`",
        "measure.shapes: input 'mask' [N, T] has an axis of no fixed length; "
        "write for example `measure: {shapes: {mask: [2, 64]}}`",
    )


def test_one_shape_gives_all_inputs_of_the_same_symbols_their_lengths() -> None:
    made = feeds.make(TEXT, Measure(shapes={"ids": [1, 64]}))
    assert made.shapes == {"ids": [1, 64], "mask": [1, 64]}


def test_data_give_free_axes_their_lengths() -> None:
    ids = np.arange(20, dtype=np.int64).reshape(2, 10)
    made = feeds.make(TEXT, Measure(batch_size=2), from_arrays({"ids": ids}))
    assert made.shapes == {"ids": [2, 10], "mask": [2, 10]}
    assert made.sources == {"ids": "data", "mask": "seeded"}


def test_shapes_come_before_data() -> None:
    ids = np.arange(20, dtype=np.int64).reshape(2, 10)
    made = feeds.make(TEXT, Measure(shapes={"ids": [1, 4]}), from_arrays({"ids": ids, "mask": ids}))
    assert made.shapes == {"ids": [1, 4], "mask": [1, 4]}
    assert set(made.sources.values()) == {"seeded"}


def test_a_batch_symbol_on_another_axis_is_the_batch_too() -> None:
    state = Tensor("state", F32, (2, "N", 8))
    made = feeds.make(
        takes(Tensor("x", F32, ("N", 5)), state, Tensor("rate", I64, ())), Measure(batch_size=3)
    )
    assert made.shapes == {"x": [3, 5], "state": [2, 3, 8], "rate": []}


def test_a_first_axis_without_a_name_is_the_batch() -> None:
    assert feeds.make(takes(Tensor("x", F32, (None, 5))), Measure(batch_size=3)).shapes == {"x": [3, 5]}


def test_a_fixed_batch_is_used_unless_the_recipe_says_otherwise() -> None:
    fixed = takes(Tensor("x", F32, (4, 5)))
    assert feeds.make(fixed, Measure()).shapes == {"x": [4, 5]}
    assert feeds.make(fixed, Measure(batch_size=4)).shapes == {"x": [4, 5]}
    with pytest.raises(
        DataError, match=r"measure\.batch_size: 8, but the model's batch is fixed at 4; use that"
    ):
        feeds.make(fixed, Measure(batch_size=8))


def test_all_wrong_shapes_are_told_at_once() -> None:
    with pytest.raises(DataError) as problem:
        feeds.make(takes(IMAGE), Measure(shapes={"picture": [1], "image": [1, 3, 4, 4]}))
    assert problem.value.lines == (
        "measure.shapes: the model has no input 'picture'; it has image",
        "measure.shapes.image: [1, 3, 4, 4] does not fit the declared [batch, 1, 4, 4]",
    )


def test_an_input_without_any_declared_shape() -> None:
    bare = takes(Tensor("x", F32, None))
    assert feeds.make(bare, Measure(shapes={"x": [2, 7]})).shapes == {"x": [2, 7]}
    samples = from_arrays({"x": np.zeros((3, 6), np.float32)})
    assert feeds.make(bare, Measure(), samples).shapes == {"x": [1, 6]}
