"""Convolution and pooling against onnxruntime, and normalisation."""

from typing import Any

import numpy as np
import pytest

from tests.train.ops.oracle import EPS, compare, normal

CONVS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2]},
    {"pads": [1, 1, 1, 1]},
    {"pads": [2, 0, 2, 0], "strides": [1, 2]},
    {"pads": [0, 1, 2, 0]},
    {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
    {"auto_pad": "VALID", "strides": [2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"group": 2},
    {"group": 4, "kernel_shape": [3, 2]},
]


@pytest.mark.parametrize("attributes", CONVS)
def test_conv(attributes: dict[str, Any]) -> None:
    weight = normal(8, 4 // attributes.get("group", 1), 3, 2, seed=1) / 4
    compare("Conv", normal(2, 4, 9, 8), weight, constant=[1], tolerance=EPS, **attributes)
    compare(
        "Conv", normal(2, 4, 9, 8), weight, normal(8, seed=2), constant=[1, 2], tolerance=EPS, **attributes
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_of_other_ranks(rank: int) -> None:
    x, weight = normal(2, 3, *[6] * rank), normal(4, 3, *[3] * rank, seed=1) / 4
    pads = [1] * (2 * rank)
    compare("Conv", x, weight, constant=[1], tolerance=EPS, pads=pads, strides=[2] * rank)
    compare("Conv", x, weight, tolerance=EPS, pads=[1] + [0] * (2 * rank - 1))
    compare("Conv", x, weight, tolerance=EPS, auto_pad="SAME_UPPER")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 3], "pads": [0, 1, 1, 0]},
        {"strides": [2, 3], "pads": [0, 1, 1, 0], "output_padding": [1, 0]},
        {"dilations": [2, 2]},
        {"group": 2, "strides": [2, 2]},
        {"auto_pad": "VALID"},
    ],
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    weight = normal(4, 6 // attributes.get("group", 1), 3, 2, seed=1) / 4
    for bias in (None, normal(6, seed=2)):
        arrays = [normal(2, 4, 5, 6), weight] + ([] if bias is None else [bias])
        compare("ConvTranspose", *arrays, constant=[1, 2], tolerance=EPS, **attributes)


def test_conv_transpose_of_rank_one() -> None:
    weight = normal(4, 6, 3, seed=1) / 4
    compare("ConvTranspose", normal(2, 4, 7), weight, tolerance=EPS, strides=[2], pads=[1, 0])


POOLS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"strides": [2, 2], "ceil_mode": 1},
    {"strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    {"strides": [3, 3], "ceil_mode": 1, "pads": [1, 0, 1, 0]},
    {"pads": [0, 1, 1, 0]},
    {"pads": [0, 0, 1, 1], "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID", "strides": [2, 1]},
]


@pytest.mark.parametrize("size", [(8, 9), (7, 10)])
@pytest.mark.parametrize("attributes", POOLS)
def test_max_pool(attributes: dict[str, Any], size: tuple[int, int]) -> None:
    compare("MaxPool", normal(2, 3, *size) - 5, opset=22, tolerance=0, kernel_shape=[3, 2], **attributes)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("size", [(8, 9), (7, 10)])
@pytest.mark.parametrize("attributes", POOLS)
def test_average_pool(attributes: dict[str, Any], size: tuple[int, int], include: int) -> None:
    x = normal(2, 3, *size)
    compare(
        "AveragePool",
        x,
        opset=22,
        tolerance=EPS,
        kernel_shape=[3, 2],
        count_include_pad=include,
        **attributes,
    )


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("rank", [1, 3])
def test_pools_of_other_ranks(op: str, rank: int) -> None:
    x = normal(2, 3, *[7] * rank)
    compare(op, x, tolerance=EPS, kernel_shape=[3] * rank, strides=[2] * rank, pads=[1] * (2 * rank))


def test_max_pool_with_dilation_and_wide_pads() -> None:
    compare("MaxPool", normal(2, 3, 9, 9), tolerance=0, kernel_shape=[3, 3], dilations=[2, 2], pads=[1] * 4)
    compare("MaxPool", normal(2, 3, 9, 9) - 9, tolerance=0, kernel_shape=[3, 3], pads=[2] * 4)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (2, 3, 2, 3, 4)])
def test_global_pools(op: str, shape: tuple[int, ...]) -> None:
    compare(op, normal(*shape), tolerance=EPS)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 2)])
def test_batch_normalization(shape: tuple[int, ...]) -> None:
    arrays = [normal(3, seed=i) for i in range(1, 4)] + [np.abs(normal(3, seed=4)) + 0.1]
    compare(
        "BatchNormalization",
        normal(*shape),
        *arrays,
        constant=[1, 2, 3, 4],
        tolerance=EPS,
        epsilon=1e-3,
        momentum=0.8,
    )


def test_instance_normalization() -> None:
    arrays = [normal(2, 3, 5, 4), normal(3, seed=1), normal(3, seed=2)]
    compare("InstanceNormalization", *arrays, constant=[1, 2], tolerance=EPS, epsilon=1e-3)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (4,)), (2, (4,)), (1, (3, 4)), (-2, (3, 4)), (1, (4,))])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(axis: int, shape: tuple[int, ...], bias: bool) -> None:
    arrays = [normal(2, 3, 4), normal(*shape, seed=1)] + ([normal(*shape, seed=2)] if bias else [])
    compare("LayerNormalization", *arrays, constant=[1, 2], tolerance=EPS, axis=axis, epsilon=1e-3)


def test_rms_normalization() -> None:
    compare("RMSNormalization", normal(2, 3, 4), normal(4, seed=1), opset=23, tolerance=EPS, axis=-1)
    compare("RMSNormalization", normal(2, 3, 4), normal(3, 4, seed=1), opset=23, tolerance=EPS, axis=1)


@pytest.mark.parametrize(("opset", "length"), [(18, 2), (21, 6)])
def test_group_normalization(opset: int, length: int) -> None:
    """Scale and bias are per group in opset 18, per channel since 21."""
    arrays = [normal(2, 6, 4, 3), normal(length, seed=1), normal(length, seed=2)]
    compare("GroupNormalization", *arrays, opset=opset, tolerance=EPS, num_groups=2, epsilon=1e-3)


def test_other_normalisations() -> None:
    compare("LRN", normal(2, 7, 3, 3), tolerance=EPS, size=3, alpha=0.3, beta=0.6, bias=1.5)
    compare("LpNormalization", normal(2, 7), tolerance=EPS)
    compare("LpNormalization", normal(2, 7), tolerance=EPS, p=1, axis=0)


def test_dropout_does_nothing_in_eval_mode() -> None:
    compare("Dropout", normal(3, 4), tolerance=0)
    compare("Dropout", normal(3, 4), np.array(0.9, np.float32), constant=[1], tolerance=0)
    compare("Dropout", normal(3, 4), opset=10, tolerance=0, ratio=0.9)
