"""QuantizeLinear and DequantizeLinear against onnxruntime; their gradients against hand numbers."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mlcompress.train.executor import Executor
from tests.train.ops.oracle import EPS, compare, normal, reference


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantize_per_tensor(kind: type) -> None:
    """Equal codes: one division, one rounding. Halves of the scale are among the inputs (half to even)."""
    x = np.concatenate([normal(50) * 9, np.arange(-9, 9, dtype=np.float32) / 4])
    zero = np.array(3, kind)
    compare("QuantizeLinear", x, np.array(0.5, np.float32), zero, constant=[1, 2], opset=21, tolerance=0)


def test_quantize_without_zero_point_gives_uint8() -> None:
    compare("QuantizeLinear", normal(50) * 99, np.array(0.5, np.float32), constant=[1], tolerance=0)
    scale = np.array(0.5, np.float32)
    compare("QuantizeLinear", normal(50) * 99, scale, constant=[1], opset=21, tolerance=0, output_dtype=3)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis(axis: int) -> None:
    x = normal(3, 3, 3) * 5
    scale, zero = np.array([0.5, 0.1, 2], np.float32), np.array([0, 3, -5], np.int8)
    compare("QuantizeLinear", x, scale, zero, constant=[1, 2], tolerance=0, axis=axis)
    codes = np.clip(np.round(x * 20), -128, 127).astype(np.int8)
    compare("DequantizeLinear", codes, scale, zero, constant=[1, 2], tolerance=EPS, axis=axis)
    compare("DequantizeLinear", codes, scale, constant=[0, 1], tolerance=EPS, axis=axis)


def test_dequantize_of_a_bias() -> None:
    codes = np.array([-70000, 5, 123456], np.int32)
    compare("DequantizeLinear", codes, np.array(1e-3, np.float32), constant=[0, 1], tolerance=EPS)


def test_blocks() -> None:
    codes = np.arange(-12, 12, dtype=np.int8).reshape(6, 4)
    scale = np.abs(normal(2, 4)) + 0.1
    compare("DequantizeLinear", codes, scale, constant=[0, 1], opset=21, tolerance=EPS, axis=0, block_size=3)
    compare(
        "QuantizeLinear", normal(6, 4) * 9, scale, constant=[1], opset=21, tolerance=0, axis=0, block_size=3
    )


def pair(kind: int, scale: list[float], zero: list[int], shape: list[int], axis: int) -> onnx.ModelProto:
    """x -> QuantizeLinear -> DequantizeLinear -> y, and the codes as an output `q` of a second pair."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["c"], axis=axis),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"], axis=axis),
    ]
    length = [] if len(scale) == 1 else [len(scale)]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.array(scale, np.float32).reshape(length), "s"),
            helper.make_tensor("z", kind, length, zero),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("tapped", [False, True])
@pytest.mark.parametrize(
    ("kind", "zero", "x", "y", "grad"),
    [
        # scale 0.5, codes 0..255 around 2: representable are -1 .. 126.5
        (
            TensorProto.UINT8,
            2,
            [-1.3, -1.2, 0.3, 126.7, 127.0],
            [-1.0, -1.0, 0.5, 126.5, 126.5],
            [0, 1, 1, 1, 0],
        ),
        # half to even: 0.25 / 0.5 = 0.5 -> 0, 0.75 / 0.5 = 1.5 -> 2; codes -128..127 around 1
        (
            TensorProto.INT8,
            1,
            [0.25, 0.75, -64.5, -65.0, 63.5],
            [0.0, 1.0, -64.5, -64.5, 63.0],
            [1, 1, 1, 0, 0],
        ),
        # codes -8..7
        (TensorProto.INT4, 0, [-4.2, -4.3, 3.7, 3.8, 0.1], [-4.0, -4.0, 3.5, 3.5, 0.0], [1, 0, 1, 0, 1]),
    ],
)
def test_straight_through_gradient(
    kind: int, zero: int, x: list[float], y: list[float], grad: list[float], tapped: bool
) -> None:
    """1 where the rounded code is in range, else 0; tapping the codes (no fused pair) changes nothing."""
    model = pair(kind, [0.5], [zero], [5], 1)
    inputs = torch.tensor(x, requires_grad=True)
    executor = Executor(ir.from_proto(model))
    results = executor({"x": inputs}, ["c"] if tapped else [])
    results["y"].sum().backward()
    assert results["y"].tolist() == y
    assert inputs.grad is not None
    assert inputs.grad.tolist() == grad
    if tapped:
        np.testing.assert_array_equal(results["c"].numpy().astype(float) - zero, np.array(y) / 0.5)


def test_pair_per_axis_matches_onnxruntime() -> None:
    model = pair(TensorProto.INT8, [0.5, 0.1, 2.0], [0, 4, -5], [4, 3], 1)
    x = normal(4, 3) * 20
    (wanted,) = reference(model, {"x": x})
    got = Executor(ir.from_proto(model))({"x": torch.from_numpy(x)})["y"]
    np.testing.assert_allclose(got.numpy(), wanted, rtol=EPS, atol=EPS)


def test_integer_weights_behind_dequantize_are_constants_and_float_weights_train() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[n, 2] x) => (float[n, 2] y)
    <int8[2, 2] w = {1, 2, 3, 4}, float s = {0.5}, float[2, 2] v = {0.3, 1, 2, 3}>
    { d = DequantizeLinear (w, s)  h = MatMul (x, d)
      q = QuantizeLinear (v, s, z)  e = DequantizeLinear (q, s, z)  y = MatMul (h, e) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "z"))
    executor = Executor(ir.from_proto(proto))
    assert list(executor.trainable) == ["v"]
    executor({"x": torch.ones(3, 2)})["y"].sum().backward()
    # x d = [2, 3] in every row, so the gradient of v is 3 * [2, 3] per row of v
    assert executor.trainable["v"].grad is not None
    assert executor.trainable["v"].grad.tolist() == [[6, 6], [9, 9]]
