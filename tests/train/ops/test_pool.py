"""Pooling against onnxruntime over its grid of attributes."""

from itertools import product
from typing import Any

import pytest

from tests.train.ops.oracle import EPS, compare, normal

X = normal(2, 3, 9, 8)
GRID: list[dict[str, Any]] = [
    {"pads": pads, "strides": strides, "dilations": dilations, "ceil_mode": ceil, "kernel_shape": [3, 3]}
    for pads, strides, dilations, ceil in product(
        ([1, 1, 1, 1], [2, 0, 1, 1], [0, 2, 2, 0]), ([1, 1], [3, 2]), ([1, 1], [1, 2]), (0, 1)
    )
]
AUTOMATIC: list[dict[str, Any]] = [
    {"auto_pad": pad, "strides": strides, "kernel_shape": [3, 2]}
    for pad, strides in product(("SAME_UPPER", "SAME_LOWER", "VALID"), ([1, 1], [3, 2]))
]


@pytest.mark.parametrize("attributes", [*GRID, *AUTOMATIC], ids=str)
def test_pools(attributes: dict[str, Any]) -> None:
    compare("MaxPool", X, opset=19, tolerance=0, **attributes)
    compare("LpPool", X, opset=18, tolerance=EPS, p=3, **attributes)
    for include in (0, 1):
        compare("AveragePool", X, opset=19, tolerance=EPS, count_include_pad=include, **attributes)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("attributes", GRID[::3], ids=str)
def test_indices_of_max_pool(attributes: dict[str, Any], order: int) -> None:
    compare("MaxPool", X, opset=19, outputs=2, tolerance=0, storage_order=order, **attributes)


def test_pools_of_whole_numbers_and_of_other_ranks() -> None:
    whole = (normal(1, 2, 7) * 30).astype("int8")
    compare("MaxPool", whole, opset=19, tolerance=0, kernel_shape=[3], pads=[1, 1])
    compare(
        "AveragePool", normal(1, 2, 4, 5, 6), opset=19, tolerance=EPS, kernel_shape=[2, 2, 3], pads=[1] * 6
    )
    compare("GlobalLpPool", X, tolerance=EPS, p=3)


@pytest.mark.parametrize(
    "attributes",
    [
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"output_shape": [8, 7], "strides": [2, 2]},
        {"output_shape": [7, 9], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"output_shape": [8, 10], "strides": [2, 2], "output_padding": [1, 1]},
        {"output_shape": [10, 10], "strides": [2, 2]},
    ],
    ids=str,
)
def test_transposed_convolution_of_a_wanted_shape(attributes: dict[str, Any]) -> None:
    x, weight, bias = normal(1, 4, 4, 4), normal(4, 2, 3, 3, seed=1), normal(4, seed=2)
    compare("ConvTranspose", x, weight, constant=[1], tolerance=EPS, group=2, **attributes)
    compare("ConvTranspose", x, weight, bias, constant=[1, 2], tolerance=EPS, group=2, **attributes)
