"""Ops that move elements, against onnxruntime."""

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.train.ops.oracle import EPS, Array, compare, ints, normal


def both(op: str, *inputs: Array | None, host: tuple[int, ...], **rest: Any) -> None:
    """Once with the numbers known, once as inputs."""
    compare(op, *inputs, constant=host, tolerance=0, **rest)
    compare(op, *inputs, tolerance=0, **rest)


@pytest.mark.parametrize(
    ("shape", "zero"),
    [((6, 4), 0), ((0, -1), 0), ((-1,), 0), ((2, 0, 2, 2), 0), ((3, -1, 2), 1), ((4, 6), 1)],
)
def test_reshape(shape: tuple[int, ...], zero: int) -> None:
    both("Reshape", normal(2, 3, 4), ints(*shape), host=(1,), allowzero=zero)


def test_reshape_to_nothing() -> None:
    both("Reshape", normal(0, 4), ints(0, 2), host=(1,), allowzero=1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, None])
def test_flatten(axis: int | None) -> None:
    compare("Flatten", normal(2, 3, 4), tolerance=0, **({} if axis is None else {"axis": axis}))
    compare("Flatten", normal(2, 3), tolerance=0)


def test_transpose() -> None:
    compare("Transpose", normal(2, 3, 4), tolerance=0)
    compare("Transpose", normal(2, 3, 4), tolerance=0, perm=[1, 2, 0])


@pytest.mark.parametrize("axes", [None, [0], [-1, 0], [2, 0]])
def test_squeeze(axes: list[int] | None) -> None:
    x = normal(1, 3, 1)
    compare("Squeeze", x, opset=11, tolerance=0, **({} if axes is None else {"axes": axes}))
    if axes is None:
        compare("Squeeze", x, tolerance=0)
    else:
        both("Squeeze", x, np.array(axes), host=(1,))


@pytest.mark.parametrize("axes", [[0], [-1, 0], [3, 1]])
def test_unsqueeze(axes: list[int]) -> None:
    both("Unsqueeze", normal(2, 3), np.array(axes), host=(1,))
    compare("Unsqueeze", normal(2, 3), opset=11, tolerance=0, axes=axes)


def test_concat() -> None:
    for axis, shape in ((0, (4, 3)), (-1, (2, 5))):
        compare("Concat", normal(2, 3), normal(*shape, seed=1), tolerance=0, axis=axis)


def test_split() -> None:
    both("Split", normal(2, 7), ints(3, 0, 4), host=(1,), outputs=3, axis=1)
    compare("Split", normal(6, 2), outputs=3, opset=13, tolerance=0)
    compare("Split", normal(2, 7), outputs=3, tolerance=0, axis=-1, num_outputs=3)
    compare("Split", normal(2, 7), outputs=2, opset=11, tolerance=0, axis=1, split=[3, 4])


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 4), (1,), (3, 1)])
def test_expand_broadcasts_both_ways(shape: tuple[int, ...]) -> None:
    both("Expand", normal(3, 1), ints(*shape), host=(1,))


def test_tile() -> None:
    both("Tile", normal(2, 3), ints(2, 3), host=(1,))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    compare("DepthToSpace", normal(2, 12, 3, 2), tolerance=0, blocksize=2, mode=mode)


def test_space_to_depth() -> None:
    compare("SpaceToDepth", normal(2, 3, 4, 6), tolerance=0, blocksize=2)


def test_shape_and_size() -> None:
    compare("Shape", normal(2, 3, 4), tolerance=0)
    compare("Shape", normal(2, 3, 4), tolerance=0, start=1)
    compare("Shape", normal(2, 3, 4), tolerance=0, start=-3, end=-1)
    compare("Size", normal(2, 3, 4), tolerance=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("known", [True, False])
def test_gather(axis: int, known: bool) -> None:
    constant = [1] if known else []
    for indices in (np.array(-1), ints(1, -2, 0), ints(0, -1, 1, 1).reshape(2, 2), np.zeros((1,), np.int32)):
        compare("Gather", normal(3, 4, 5), indices, constant=constant, tolerance=0, axis=axis)
        compare("Gather", normal(3, 4), indices, constant=constant, tolerance=0, axis=min(axis, 1))


def test_gather_elements() -> None:
    indices = ints(0, -1, 1, 1).reshape(2, 2)
    for axis in (0, 1):
        compare("GatherElements", normal(2, 2), indices, tolerance=0, axis=axis)


def test_gather_nd() -> None:
    compare("GatherND", normal(2, 3, 4), ints(0, 1, 1, -1).reshape(2, 2), tolerance=0)
    compare("GatherND", normal(2, 3, 4), ints(0, 1, 2, 1, 0, 3).reshape(2, 1, 3), tolerance=0)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(reduction: str) -> None:
    indices = ints(2, -1, 0, 1).reshape(2, 2)
    new = normal(2, 2, seed=1)
    compare("ScatterElements", normal(3, 4), indices, new, tolerance=EPS, axis=1, reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_nd(reduction: str) -> None:
    new = normal(2, 4, seed=1)
    compare("ScatterND", normal(3, 4), ints(2, -3).reshape(2, 1), new, tolerance=EPS, reduction=reduction)


BIG = 2**63 - 1
SLICES = [
    ([1], [3], None, None),
    ([-2], [BIG], [1], None),
    ([0, 1], [-1, 100], [2, 0], [1, 1]),
    ([0], [BIG], [-1], [2]),
    ([-1], [-BIG], [1], [-1]),
    ([3, -1], [0, 0], [1, 2], [-2, -1]),
    ([100], [-100], [0], [-1]),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    lists = [None if part is None else np.array(part) for part in (starts, ends, axes, steps)]
    while lists[-1] is None:
        lists.pop()
    both("Slice", normal(3, 4, 5), *lists, host=(1, 2, 3, 4))
    if steps is None:
        attributes = {"starts": starts, "ends": ends} | ({} if axes is None else {"axes": axes})
        compare("Slice", normal(3, 4, 5), opset=9, tolerance=0, **attributes)


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper: int) -> None:
    compare("Trilu", normal(2, 4, 5), tolerance=0, upper=upper)
    both("Trilu", normal(4, 5), np.array(-1), host=(1,), upper=upper)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int) -> None:
    values = np.array([0.25, 2.0], np.float32)
    both("OneHot", ints(0, 3, -1, 7).reshape(2, 2), np.array(4), values, host=(1, 2), axis=axis)


def test_constant_of_shape() -> None:
    both("ConstantOfShape", ints(2, 3), host=(0,))
    value = helper.make_tensor("value", 7, [1], [5])
    both("ConstantOfShape", ints(2, 3), host=(0,), value=value)
    both("ConstantOfShape", ints(), host=(0,), value=value)


def test_range() -> None:
    both("Range", np.array(2), np.array(11), np.array(3), host=(0, 1, 2))
    both("Range", *(np.array(v, np.float32) for v in (2, 0, -0.5)), host=(0, 1, 2))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str) -> None:
    x, pads = normal(2, 3, 5, 4), ints(0, 0, 2, 1, 0, 0, 1, 3)
    compare("Pad", x, pads, constant=[1], tolerance=0, mode=mode)
    compare("Pad", x, pads, tolerance=0, mode=mode)
    compare("Pad", x, ints(2, 1), None, ints(-2), constant=[1, 3], tolerance=0, mode=mode)
    compare("Pad", x, opset=10, tolerance=0, mode=mode, pads=pads.tolist())


def test_pad_with_a_value_and_negative_amounts() -> None:
    value = np.array(-1.5, np.float32)
    compare("Pad", normal(3, 4), ints(1, -1, 0, 2), value, constant=[1, 2], tolerance=0)
    compare("Pad", normal(3, 4), opset=10, tolerance=0, pads=[1, -1, 0, 2], value=-1.5)
    compare("Pad", normal(3, 4), ints(1, 2, 3, 1), constant=[1], opset=19, tolerance=0, mode="wrap")


COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
SIZES = [(10, 8), (7, 3), (3, 7), (2, 1)]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest_to_sizes(coordinates: str, size: tuple[int, int], rounding: str) -> None:
    compare(
        "Resize",
        normal(2, 3, 5, 4),
        None,
        None,
        ints(2, 3, *size),
        constant=[3],
        tolerance=0,
        mode="nearest",
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("size", SIZES)
def test_resize_linear_to_sizes(coordinates: str, size: tuple[int, int]) -> None:
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    sizes = ints(2, 3, *size)
    compare("Resize", normal(2, 3, 5, 4), None, None, sizes, constant=[3], tolerance=EPS, **attributes)
    compare("Resize", normal(2, 3, 5, 4), None, None, sizes, tolerance=EPS, **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scales", [(2.0, 2.0), (0.5, 0.6), (1.3, 2.7)])
def test_resize_by_scales(mode: str, coordinates: str, scales: tuple[float, float]) -> None:
    if coordinates == "align_corners" and scales != (2.0, 2.0):
        scales = (1.4, 1.5)  # onnx and onnxruntime disagree unless these give whole lengths
    given = np.array([1, 1, *scales], np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    compare("Resize", normal(2, 3, 5, 4), None, given, constant=[2], tolerance=EPS, **attributes)


def test_resize_of_some_axes_and_of_old_opsets() -> None:
    compare(
        "Resize", normal(2, 3, 5), None, None, ints(8), constant=[3], tolerance=0, mode="nearest", axes=[2]
    )
    scales = np.array([1, 1, 2, 3], np.float32)
    compare("Resize", normal(1, 2, 3, 4), scales, constant=[1], opset=10, tolerance=0, mode="nearest")
    compare("Upsample", normal(1, 2, 3, 4), scales, constant=[1], opset=9, tolerance=0, mode="nearest")
    compare("Upsample", normal(1, 2, 3, 4), scales, constant=[1], opset=9, tolerance=EPS, mode="linear")
    compare("Upsample", normal(1, 2, 3, 4), opset=7, tolerance=0, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
