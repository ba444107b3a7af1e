"""Whole numbers: codes against onnxruntime, bits and unsigned arithmetic against numpy."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress.train.executor import Executor
from tests.train.ops.oracle import EPS, Array, compare, model_of, normal, rng


def codes(*shape: int, kind: str = "uint8", seed: int = 0) -> Array:
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return rng(seed).integers(low, high + 1, shape).astype(kind)


ZERO, SIGNED_ZERO = np.array(7, np.uint8), np.array(-3, np.int8)


def test_matmul_integer() -> None:
    a, b = codes(2, 3, 4), codes(4, 5, kind="int8", seed=1)
    compare("MatMulInteger", a, b, ZERO, SIGNED_ZERO, tolerance=0)
    compare("MatMulInteger", a, codes(4, 5), ZERO, codes(5), tolerance=0)
    compare("MatMulInteger", a, b, tolerance=0)


@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 0, 1, 2]}, {"strides": [2, 1], "group": 2}])
def test_convolutions_of_codes(attributes: dict[str, Any]) -> None:
    channels = 4 // attributes.get("group", 1)
    x, w = codes(1, 4, 5, 6), codes(6, channels, 2, 3, seed=1)
    compare("ConvInteger", x, w, ZERO, np.array(100, np.uint8), tolerance=0, **attributes)
    scales = [np.array(value, np.float32) for value in (0.02, 0.03)]
    bias = rng(2).integers(-2000, 2000, 6).astype(np.int32)
    signed = codes(6, channels, 2, 3, kind="int8", seed=1)
    for zero, scale in (
        (np.array(0, np.int8), scales[1]),
        (np.zeros(6, np.int8), normal(6) ** 2 / 10 + 0.01),
    ):
        compare(
            "QLinearConv", x, scales[0], ZERO, signed, scale, zero, np.float32(5)[None].reshape(()), ZERO, bias,
            constant=[3], tolerance=0, **attributes,
        )  # fmt: skip


def test_product_of_codes() -> None:
    a, b = codes(2, 3, 4), codes(4, 5, kind="int8", seed=1)
    scales = [np.array(value, np.float32) for value in (0.02, 0.03, 0.8)]
    compare("QLinearMatMul", a, scales[0], ZERO, b, scales[1], SIGNED_ZERO, scales[2], ZERO, tolerance=0)


@pytest.mark.parametrize("x", [normal(3, 4), abs(normal(3, 4)), np.zeros(5, np.float32)])
def test_dynamic_quantisation(x: Array) -> None:
    compare("DynamicQuantizeLinear", x, outputs=3, tolerance=EPS)


def test_gradient_through_dynamic_quantisation_is_straight() -> None:
    """No clipping, so the gradient of y = (codes - zero) * scale is 1 everywhere."""
    text = """<ir_version: 8, opset_import: ["" : 18]> net (float[n, 3] x) => (float[n, 2] y)
    <int8[3, 2] w = {1, 2, 3, 4, 5, 6}>
    { q, s, z = DynamicQuantizeLinear (x)  m = MatMulInteger (q, w, z)
      c = Cast <to = 1> (m)  y = Mul (c, s) }"""
    x = torch.from_numpy(normal(4, 3)).requires_grad_()
    Executor(ir.from_proto(onnx.parser.parse_model(text)))({"x": x})["y"].sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), np.tile([3, 7, 11], (4, 1)), rtol=1e-5)


def run(op: str, *inputs: Array, **attributes: Any) -> Array:
    executor = Executor(ir.from_proto(model_of(op, inputs, attributes, opset=18)))
    value = executor({f"x{i}": torch.from_numpy(a) for i, a in enumerate(inputs)})["y0"]
    return np.asarray(value.numpy())


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64"])
def test_bits(kind: str) -> None:
    x, y = (
        codes(50, kind=kind) if kind != "uint64" else codes(50, kind="int64").view(kind),
        codes(50, kind="uint8"),
    )
    by = (y % (8 * x.itemsize)).astype(kind)
    expected = {
        "BitwiseAnd": x & y.astype(kind),
        "BitwiseOr": x | y.astype(kind),
        "BitwiseXor": x ^ y.astype(kind),
    }
    for op, wanted in expected.items():
        np.testing.assert_array_equal(run(op, x, y.astype(kind)), wanted, strict=True)
    np.testing.assert_array_equal(run("BitwiseNot", x), ~x, strict=True)
    np.testing.assert_array_equal(run("BitShift", x, by, direction="LEFT"), x << by, strict=True)
    np.testing.assert_array_equal(run("BitShift", x, by, direction="RIGHT"), x >> by, strict=True)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int8"])
def test_arithmetic_wraps_around(kind: str) -> None:
    x, y = codes(50, kind=kind), codes(50, kind=kind, seed=1)
    y[y == 0] = 1
    expected = {
        "Add": x + y,
        "Sub": x - y,
        "Mul": x * y,
        "Less": x < y,
        "Max": np.maximum(x, y),
        "Mod": x % y,
    }
    for op, wanted in expected.items():
        np.testing.assert_array_equal(run(op, x, y), wanted, strict=True)
    wanted = np.trunc(x.astype(np.float64) / y).astype(np.int64).astype(kind)  # towards zero; -128 / -1 wraps
    np.testing.assert_array_equal(run("Div", x, y), wanted, strict=True)
