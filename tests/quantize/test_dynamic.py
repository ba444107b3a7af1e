import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.quantize.dynamic import dynamic_obstacle, insert_dynamic
from mlcompress.quantize.fuse import fold_gemm_factors
from tests.quantize import nets


def everything(node: ir.Node) -> bool:
    return True


def rewritten(model: ir.Model, *, per_channel: bool = True) -> ir.Model:
    made = graph.copy(model)
    fold_gemm_factors(made)
    insert_dynamic(made, everything, per_channel=per_channel)
    return made


def test_one_product_is_the_numpy_simulation() -> None:
    rng = np.random.default_rng(0)
    weight, bias = nets.floats(rng, 24, 16), nets.floats(rng, 16)
    model = nets.build(
        "g (float[n, 24] x) => (float[n, 16] y) { y = Gemm <transB = 1> (x, w, b) }",
        {"w": weight.T.copy(), "b": bias},
    )
    made = rewritten(model)
    x = nets.floats(rng, 6, 24)
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = np.clip(np.rint(-min(x.min(), 0) / step), 0, 255)
    codes = np.clip(np.rint(x / step) + zero, 0, 255)
    scales = np.abs(weight).max(axis=0) / 127
    integers = np.clip(np.rint(weight / scales), -127, 127)
    expected = ((codes - zero) @ integers) * step * scales + bias
    found = nets.outputs(made, {"x": x})[0]
    # A code that lies on a tie may differ by one: one step times the largest weight.
    np.testing.assert_allclose(found, expected, atol=1.01 * step * np.abs(weight).max())
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.1
    np.testing.assert_array_equal(nets.array(made, "w_quantized"), integers.astype(np.int8))


def test_outputs_stay_close_to_float_and_signed_kernels_run() -> None:
    model = nets.perceptron()
    made = rewritten(model)
    feed = nets.rows(64).take(np.arange(64)).inputs
    one, other = nets.outputs(model, feed)[0], nets.outputs(made, feed)[0]
    cosine = np.sum(one * other) / np.sqrt(np.sum(one**2) * np.sum(other**2))
    assert cosine > 0.999
    assert nets.decibels(one, -other) < 0  # negative control
    kernels = nets.kernels(made, nets.rows(1).take(np.arange(1)).inputs)
    integer = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger")
    assert sum(kernels.get(op, 0) for op in integer) == 3
    assert not {"MatMul", "Gemm", "FusedGemm"} & set(kernels)
    assert all(
        nets.array(made, f"{name}_weight_quantized").dtype == np.int8 for name in ("one", "two", "three")
    )


def test_standard_ops_only() -> None:
    assert {node.domain for node in rewritten(nets.perceptron()).graph} == {""}


def test_output_names_and_the_input_quantiser_are_kept_once() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        "g (float[n, 8] x) => (float[n, 8] q, float[n, 8] k) { q = MatMul (x, w) k = MatMul (x, w) }",
        {"w": nets.floats(rng, 8, 8)},
    )
    made = rewritten(model)
    assert [value.name for value in made.graph.outputs] == ["q", "k"]
    assert nets.ops(made).count("DynamicQuantizeLinear") == 1
    assert len([name for name in made.graph.initializers if name.startswith("w_quantized")]) == 1
    one, other = nets.outputs(made, {"x": nets.floats(rng, 3, 8)})
    np.testing.assert_array_equal(one, other)


def test_a_weight_that_float_nodes_read_too_is_kept() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        "g (int64[n] ids, float[n, 8] x) => (float[n, 8] e, float[n, 8] y) { e = Gather (w, ids) y = MatMul (x, w) }",
        {"w": nets.floats(rng, 8, 8)},
    )
    made = rewritten(model)
    ids = np.arange(3)
    found = nets.outputs(made, {"ids": ids, "x": nets.floats(rng, 3, 8)})[0]
    np.testing.assert_array_equal(found, nets.array(model, "w")[ids])


def test_per_tensor_scales_are_scalars() -> None:
    made = rewritten(nets.perceptron(), per_channel=False)
    assert nets.array(made, "one_weight_scale").shape == ()
    feed = nets.rows(16).take(np.arange(16)).inputs
    assert nets.decibels(nets.outputs(nets.perceptron(), feed)[0], nets.outputs(made, feed)[0]) > 20


@pytest.mark.parametrize(
    ("line", "shape", "weight", "reason"),
    [
        (
            "y = Conv (x, w)",
            "n, 4, 4, 4",
            (4, 4, 1, 1),
            "Conv has no fast dynamic kernel; use `mode: static`",
        ),
        ("y = MatMul (x, w)", "n, 4, 4", (2, 4, 4), "its weight has 3 axes, 2 are needed"),
        ("y = MatMul (w, x)", "4, 4", (4, 4), "its input is a constant"),
        ("y = Gemm <transA = 1> (x, w)", "4, 4", (4, 4), "its input is transposed"),
    ],
)
def test_obstacles(line: str, shape: str, weight: tuple[int, ...], reason: str) -> None:
    rank = "4, 4" if shape == "4, 4" else "n, 4, 4, 4" if "Conv" in line else "n, 4, 4"
    text = f"g (float[{shape}] x) => (float[{rank}] y) {{ {line} }}"
    model = nets.build(text, {"w": nets.floats(np.random.default_rng(0), *weight)})
    assert dynamic_obstacle(model.graph.node(0)) == reason
    before = graph.to_bytes(model)
    insert_dynamic(model, everything)
    assert graph.to_bytes(model) == before
