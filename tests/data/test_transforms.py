"""Transforms, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from mlcompress.data.columns import ModelInput
from mlcompress.data.transforms import Form, Misfit, plan
from mlcompress.recipe.sections import Transform

Shape = tuple[int | str | None, ...]
IMAGE: Shape = ("N", 3, 4, 4)


def run(steps: list[dict[str, Any]], array: np.ndarray, shape: Shape, dtype: str = "float32") -> np.ndarray:
    """Apply steps to a batch for a model input; the planned form must be what comes out."""
    tensor = ModelInput("x", np.dtype(dtype), shape)
    form, functions = plan(
        [Transform.model_validate(step) for step in steps], Form(array.shape[1:], array.dtype), tensor
    )
    for function in functions:
        array = function(array)
    assert form.shape == array.shape[1:]
    assert form.dtype == array.dtype
    return array


def test_scale_and_normalize_promote_pixels_to_float32() -> None:
    got = run(
        [{"scale": 0.5}, {"normalize": {"mean": [10], "std": [4]}}],
        np.array([[0, 20, 100]], np.uint8),
        ("N", 3),
    )
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[-2.5, 0, 10]])


def test_floats_keep_their_width() -> None:
    assert run([{"scale": 2}], np.ones((1, 3), np.float64), ("N", 3)).dtype == np.float64
    assert (
        run([{"scale": 2}, {"cast": "float16"}], np.ones((1, 3), np.uint8), ("N", 3), "float16").dtype
        == np.float16
    )


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_normalize_per_channel_before_and_after_layout(order: str) -> None:
    """Channels of value 10, 20, 30 become 0, 1, 2 with mean 10, 10, 15 and std 1, 10, 7.5."""
    stored = np.broadcast_to(np.array([10, 20, 30], np.uint8), (2, 4, 4, 3))
    shape: Shape = IMAGE if order == "NCHW" else ("N", 4, 4, 3)
    normalize: dict[str, Any] = {"normalize": {"mean": [10, 10, 15], "std": [1, 10, 7.5]}}
    for steps in ([normalize, {"layout": order}], [{"layout": order}, normalize]):
        got = run(steps, stored, shape)
        channels = got if order == "NHWC" else np.moveaxis(got, 1, 3)
        np.testing.assert_array_equal(channels, np.broadcast_to([0, 1, 2], (2, 4, 4, 3)))


def test_layout_adds_the_channel_axis() -> None:
    array = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    np.testing.assert_array_equal(run([{"layout": "NCHW"}], array, ("N", 1, 4, 4)), array[:, None])
    np.testing.assert_array_equal(run([{"layout": "NHWC"}], array, ("N", 4, 4, 1)), array[..., None])


def test_layout_moves_channels_only_where_they_are_not_in_place() -> None:
    first = np.arange(96, dtype=np.float32).reshape(2, 3, 4, 4)
    last = np.moveaxis(first, 1, 3)
    np.testing.assert_array_equal(run([{"layout": "NCHW"}], last, IMAGE), first)
    np.testing.assert_array_equal(run([{"layout": "NCHW"}], first, IMAGE), first)
    np.testing.assert_array_equal(run([{"layout": "NHWC"}], first, ("N", 4, 4, 3)), last)
    wide = np.arange(150).reshape(2, 5, 5, 3)
    np.testing.assert_array_equal(
        run([{"layout": "NCHW"}], wide, ("N", None, None, None)), np.moveaxis(wide, 3, 1)
    )


def test_central_crop_of_odd_margins_follows_torchvision() -> None:
    """round((5 - 2) / 2) = 2 and round((7 - 2) / 2) = 2 (halves to even), as torchvision's center_crop."""
    array = np.arange(35, dtype=np.float32).reshape(1, 5, 7)
    np.testing.assert_array_equal(
        run([{"crop": 2}, {"layout": "NCHW"}], array, ("N", 1, 2, 2)), [[[[16, 17], [23, 24]]]]
    )


def test_crop_and_resize_know_channels_first_from_channels_last() -> None:
    first = np.zeros((2, 3, 8, 6), np.float32)
    first[:, 1] = 5
    for array, steps in ((first, []), (np.moveaxis(first, 1, 3), [{"layout": "NCHW"}])):
        got = run([{"resize": 3}, {"crop": 2}, *steps], array, ("N", 3, 2, 2))
        np.testing.assert_array_equal(got[:, :, 0, 0], [[0, 5, 0]] * 2)


def test_resize_halves_by_averaging() -> None:
    """Bilinear with antialiasing keeps a step edge symmetric: values rise from 0 to 8 about their mean."""
    array = np.zeros((1, 8, 8), np.float32)
    array[:, :, 4:] = 8
    got = run([{"resize": 4}, {"layout": "NCHW"}], array, ("N", 1, 4, 4))[0, 0]
    np.testing.assert_allclose(got, got[:1].repeat(4, 0), atol=1e-6)  # rows are equal up to float32 rounding
    np.testing.assert_allclose(got[0] + got[0][::-1], 8, atol=1e-5)  # symmetric about the edge
    assert (np.diff(got[0]) >= 0).all()


def test_which_inputs_a_step_changes() -> None:
    ids = np.array([[1, 200]], np.uint8)
    steps = [{"scale": 0.5}, {"layout": "NCHW"}, {"cast": "int64"}]
    np.testing.assert_array_equal(run(steps, ids, ("N", 2), "int64"), [[1, 200]])
    assert run(steps, ids, ("N", 2), "int64").dtype == np.int64
    np.testing.assert_array_equal(run(steps, ids, ("N", 2), "float32"), [[0.5, 100]])


@pytest.mark.parametrize(
    ("steps", "shape", "wanted", "text"),
    [
        (
            [{"layout": "NCHW"}],
            (3, 4, 3),
            ("N", 3, 4, 3),
            "cannot tell the channel axis of samples [3, 4, 3]",
        ),
        ([{"layout": "NCHW"}], (2, 4, 4), IMAGE, "cannot tell the channel axis of samples [2, 4, 4]"),
        ([{"layout": "NCHW"}], (5,), IMAGE, "an image has 2 or 3 axes, these samples have [5]"),
        ([{"crop": 9}], (3, 4, 4), IMAGE, "crop: 9 is larger than the images, 4 x 4"),
        ([{"normalize": {"mean": [1, 2], "std": [1]}}], (3, 4, 4), IMAGE, "normalize has 2 means and 1 stds"),
        (
            [{"normalize": {"mean": [1, 2], "std": [1, 2]}}],
            (3, 4, 4),
            IMAGE,
            "normalize has 2 means, and samples",
        ),
        (
            [{"normalize": {"mean": [1] * 3, "std": [1] * 3}}],
            (3, 4, 3),
            IMAGE,
            "normalize has 3 means, and samples",
        ),
    ],
)
def test_steps_that_do_not_fit(steps: list[dict[str, Any]], shape: Shape, wanted: Shape, text: str) -> None:
    with pytest.raises(Misfit) as caught:
        run(steps, np.zeros((1, *shape), np.float32), wanted)  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)


def test_resize_of_other_dtypes_is_refused() -> None:
    with pytest.raises(Misfit, match="resize takes uint8 or float32 images, not int64"):
        run([{"resize": 2}], np.zeros((1, 3, 4, 4), np.int64), IMAGE)
