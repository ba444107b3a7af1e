"""Static int8 against a numpy simulation, and the kernels that stock onnxruntime makes of it."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.graph.session import Level
from mlcompress.quantize.calibrate import observe
from mlcompress.quantize.fuse import fold_batch_norm, fold_gemm_factors
from mlcompress.quantize.integer import lay_out, obstacle
from mlcompress.quantize.observers import minmax
from mlcompress.quantize.static import insert_qdq
from mlcompress.quantize.widen import widen_stems
from tests.quantize import nets

Allowed = Callable[[ir.Node], bool]


def everything(node: ir.Node) -> bool:
    return True


def quantised(
    model: ir.Model, data: Dataset, allowed: Allowed = everything, *, per_channel: bool = True
) -> tuple[ir.Model, ir.Model]:
    """The prepared float graph, and its integer form."""
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    layout = lay_out(base.graph, allowed)
    seen = observe(base, [str(value.name) for value in layout.roots], data)
    found = {name: minmax(statistics) for name, statistics in seen.items()}
    made = graph.copy(base)
    insert_qdq(made, lay_out(made.graph, allowed), found, per_channel=per_channel)
    return base, made


def conv() -> ir.Model:
    rng = np.random.default_rng(7)
    return nets.build(
        "g (float[n, 3, 7, 7] x) => (float[n, 4, 5, 5] y) { c = Conv (x, w, b) y = Relu (c) }",
        {"w": nets.floats(rng, 4, 3, 3, 3), "b": nets.floats(rng, 4)},
    )


def conv_data() -> Dataset:
    return from_arrays({"x": nets.floats(np.random.default_rng(8), 24, 3, 7, 7)})


def first_output(model: ir.Model, feed: nets.Arrays, level: Level = Level.ORT_ENABLE_ALL) -> np.ndarray:
    return nets.outputs(model, feed, level)[0]


def test_weights_biases_and_scales_by_hand() -> None:
    data = conv_data()
    base, made = quantised(conv(), data)
    weight = nets.array(base, "w")
    scale = np.abs(weight).reshape(4, -1).max(axis=1) / 127
    np.testing.assert_allclose(nets.array(made, "w_scale"), scale, rtol=1e-6)
    expected = np.clip(np.rint(weight / scale.reshape(-1, 1, 1, 1)), -127, 127)
    assert nets.array(made, "w").dtype == np.int8
    # A quotient next to .5 may round either way in float32 and float64: at most one code in a hundred.
    assert np.mean(nets.array(made, "w") != expected) < 0.01
    image = data.take(np.arange(len(data))).inputs["x"]
    step = (image.max() - image.min()) / 255
    np.testing.assert_allclose(nets.array(made, "x_scale"), step, rtol=1e-6)
    assert nets.array(made, "x_zero_point") == np.rint(-image.min() / step)
    np.testing.assert_allclose(nets.array(made, "b_scale"), scale * step, rtol=1e-6)
    np.testing.assert_array_equal(nets.array(made, "b"), np.rint(nets.array(base, "b") / (scale * step)))


def test_outputs_are_those_of_a_numpy_simulation() -> None:
    data = conv_data()
    base, made = quantised(conv(), data)
    x = data.take(np.arange(3)).inputs["x"]

    def fake(values: np.ndarray, name: str) -> np.ndarray:
        step, zero = nets.array(made, f"{name}_scale"), int(nets.array(made, f"{name}_zero_point"))
        return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step

    weight = nets.array(made, "w") * nets.array(made, "w_scale").reshape(-1, 1, 1, 1)
    bias = nets.array(made, "b") * nets.array(made, "b_scale")
    windows = np.lib.stride_tricks.sliding_window_view(fake(x, "x"), (3, 3), axis=(2, 3))
    product = np.einsum("nchwij,ocij->nohw", windows, weight) + bias.reshape(1, -1, 1, 1)
    expected = fake(np.maximum(product, 0), "y")
    step = float(nets.array(made, "y_scale"))
    for level in (Level.ORT_DISABLE_ALL, Level.ORT_ENABLE_ALL):
        found = first_output(made, {"x": x}, level)
        # Ties flip codes by one step: few of them, and never by more.
        assert np.abs(found - expected).max() <= step * 1.001
        assert np.mean(np.abs(found - expected) > step / 2) < 0.01
    # Negative control: the float model differs in far more places.
    assert np.mean(np.abs(first_output(base, {"x": x}) - expected) > step / 8) > 0.2


def test_every_kernel_is_an_integer_kernel() -> None:
    data = nets.pictures(32)
    base, made = quantised(nets.residual(), data)
    feed = data.take(np.arange(1)).inputs
    kernels = nets.kernels(made, feed)
    assert kernels["QLinearConv"] == 3
    assert kernels["QLinearAdd"] == 1
    assert kernels["QLinearGlobalAveragePool"] == 1
    assert kernels["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "Clip", "Add"} & set(kernels)
    assert kernels.get("DequantizeLinear", 0) == 0  # the product is float already
    assert kernels["QuantizeLinear"] == 1  # the image
    every = data.take(np.arange(32)).inputs
    assert nets.decibels(nets.outputs(base, every)[0], nets.outputs(made, every)[0]) > 25


def test_no_quantiser_between_conv_and_its_activation() -> None:
    _, made = quantised(nets.residual(), nets.pictures(8))
    names = {node.name for node in made.graph}
    assert "r1_QuantizeLinear" in names
    assert "k_QuantizeLinear" in names
    assert "c1_QuantizeLinear" not in names
    assert "s_QuantizeLinear" not in names


def test_moving_nodes_share_the_scale_of_what_they_move() -> None:
    _, made = quantised(nets.residual(), nets.pictures(8))
    pool = next(node for node in made.graph if node.name == "p_QuantizeLinear")
    assert [value.name for value in pool.inputs[1:] if value] == ["r2_scale", "r2_zero_point"]
    assert "p_scale" not in made.graph.initializers


def test_matrix_products_are_integer_with_and_without_fixed_shapes() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": nets.floats(rng, 32, 16), "b": nets.floats(rng, 16)}
    for batch in ("n", "1"):
        model = nets.build(
            f"g (float[{batch}, 6, 32] x) => (float[{batch}, 6, 16] y) {{ a = MatMul (x, w) y = Add (a, b) }}",
            weights,
        )
        data = from_arrays({"x": nets.floats(rng, 8, 6, 32)})
        base, made = quantised(model, data)
        kernels = nets.kernels(made, data.take(np.arange(1)).inputs)
        assert kernels.get("MatMulInteger", 0) + kernels.get("MatMulIntegerToFloat", 0) == 1, kernels
        assert not {"Gemm", "MatMul", "DequantizeLinear"} & set(kernels)
        feed = data.take(np.arange(1)).inputs
        assert nets.decibels(nets.outputs(base, feed)[0], nets.outputs(made, feed)[0]) > 30


def test_shared_weights_and_biases() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        """
        g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y, float[4, 4, 3, 3] seen) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            r = Relu (a)
            y = Conv <pads = [1, 1, 1, 1]> (r, w, b)
            seen = Neg (v)
            z = Conv <pads = [1, 1, 1, 1]> (r, v, b)
        }
        """,
        {"w": nets.floats(rng, 4, 4, 3, 3), "v": nets.floats(rng, 4, 4, 3, 3), "b": nets.floats(rng, 4)},
    )
    data = from_arrays({"x": nets.floats(rng, 16, 4, 6, 6)})
    base, made = quantised(model, data)
    feed = data.take(np.arange(16)).inputs
    assert nets.kernels(made, data.take(np.arange(1)).inputs)["QLinearConv"] >= 2
    one, other = nets.outputs(base, feed), nets.outputs(made, feed)
    assert nets.decibels(one[0], other[0]) > 30
    np.testing.assert_array_equal(one[1], other[1])  # the float reader still has the float weight
    assert nets.array(made, "w").dtype == np.int8
    assert nets.array(made, "v").dtype == np.float32
    assert [name for name in made.graph.initializers if name.startswith("b_quantized")]


def test_emptied_channels_keep_their_bias() -> None:
    rng = np.random.default_rng(0)
    weight = nets.floats(rng, 4, 4, 1, 1)
    weight[1], weight[2] = 0, 1e-12
    bias = np.float32([0.3, -0.7, 0.5, 0.1])
    model = nets.build(
        "g (float[n, 4, 3, 3] x) => (float[n, 4, 3, 3] y) { y = Conv (x, w, b) }", {"w": weight, "b": bias}
    )
    data = from_arrays({"x": nets.floats(rng, 8, 4, 3, 3)})
    _, made = quantised(model, data)
    scales = nets.array(made, "w_scale")
    assert np.all(scales >= np.finfo(np.float32).tiny)
    found = nets.outputs(made, data.take(np.arange(8)).inputs)[0]
    step = float(nets.array(made, "y_scale"))
    np.testing.assert_allclose(found[:, 1], -0.7, atol=step)
    np.testing.assert_allclose(found[:, 2], 0.5, atol=step)


@pytest.mark.parametrize(
    ("text", "shape", "weight"),
    [
        ("g (float[n, 8, 9] x) => (float[n, 8, 7] y) { y = Conv <group = 2> (x, w) }", (8, 9), (8, 4, 3)),
        (
            "g (float[n, 8, 5, 5] x) => (float[n, 8, 3, 3] y) { y = Conv <group = 8> (x, w) }",
            (8, 5, 5),
            (8, 1, 3, 3),
        ),
        (
            "g (float[n, 8, 5, 5] x) => (float[n, 8, 4, 4] y) { y = Conv <dilations = [2, 2], pads = [1, 2, 2, 1]> (x, w) }",
            (8, 5, 5),
            (8, 8, 3, 3),
        ),
    ],
    ids=["grouped 1-D", "depthwise", "dilated, ragged pads"],
)
def test_convolutions_of_all_kinds(text: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    model = nets.build(text, {"w": nets.floats(rng, *weight)})
    data = from_arrays({"x": nets.floats(rng, 16, *shape)})
    base, made = quantised(model, data)
    feed = data.take(np.arange(16)).inputs
    assert nets.decibels(nets.outputs(base, feed)[0], nets.outputs(made, feed)[0]) > 30
    assert nets.kernels(made, data.take(np.arange(1)).inputs)["QLinearConv"] == 1


def test_per_channel_beats_per_tensor() -> None:
    rng = np.random.default_rng(0)
    weight = nets.floats(rng, 8, 8, 3, 3) * np.logspace(-2, 0, 8, dtype=np.float32).reshape(-1, 1, 1, 1)
    model = nets.build("g (float[n, 8, 5, 5] x) => (float[n, 8, 3, 3] y) { y = Conv (x, w) }", {"w": weight})
    data = from_arrays({"x": nets.floats(rng, 16, 8, 5, 5)})
    feed = data.take(np.arange(16)).inputs
    noise = []
    for per_channel in (True, False):
        base, made = quantised(model, data, per_channel=per_channel)
        assert nets.array(made, "w_scale").shape == ((8,) if per_channel else ())
        restored = nets.array(made, "w") * nets.array(made, "w_scale").reshape(-1, 1, 1, 1)
        noise.append(nets.decibels(nets.array(base, "w")[0], restored[0]))
        assert nets.outputs(made, feed)[0].shape == (16, 8, 3, 3)
    assert noise[0] > noise[1] + 20


def test_obstacles() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        """
        g (float[n, 8] x, float[8, 8] v) => (float[n, 8] y) {
            a = MatMul (x, v)
            b = Gemm <alpha = 2.0> (a, w)
            y = Gemm (b, w, v)
        }
        """,
        {"w": nets.floats(rng, 8, 8)},
    )
    assert [obstacle(node) for node in model.graph] == [
        "its weight is not a constant",
        "its alpha or beta is not 1",
        "its bias is not a constant",
    ]
    assert lay_out(model.graph, everything).nodes == []


def test_a_padded_stem_gives_the_same_numbers() -> None:
    model = nets.residual()
    wide = graph.copy(model)
    assert widen_stems(wide, {"stem", "body", "deep"}) == {"image_padded": "image"}
    assert nets.array(wide, "stem_weight").shape == (16, 4, 3, 3)
    assert nets.array(wide, "deep_weight").shape == (16, 1, 3, 3)
    feed = nets.pictures(4).take(np.arange(4)).inputs
    one, other = nets.outputs(model, feed)[0], nets.outputs(wide, feed)[0]
    # 1e-6 of the range: the same products, and zeros, in another order.
    np.testing.assert_allclose(other, one, atol=1e-6 * np.abs(one).max(), rtol=1e-6)


def test_the_same_bytes_twice() -> None:
    first = graph.to_bytes(quantised(nets.residual(), nets.pictures(20))[1])
    assert graph.to_bytes(quantised(nets.residual(), nets.pictures(20))[1]) == first
    assert graph.to_bytes(quantised(nets.residual(), nets.pictures(20, seed=2))[1]) != first
