import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.errors import UnsupportedError
from mlcompress.quantize.fuse import fold_batch_norm, fold_gemm_factors, pool_means, raise_opset
from tests.quantize import nets

SAME = 1e-5
"""Of the largest output: float32 sums in another order."""


def assert_same(before: ir.Model, after: ir.Model, feed: nets.Arrays) -> None:
    one, other = nets.outputs(before, feed)[0], nets.outputs(after, feed)[0]
    np.testing.assert_allclose(other, one, atol=SAME * np.abs(one).max(), rtol=SAME)


def test_batch_norm_becomes_weight_and_bias() -> None:
    model = nets.residual()
    gain, shift, mean, variance, weight = (
        nets.array(model, name).astype(np.float64)
        for name in ("norm_gain", "norm_shift", "norm_mean", "norm_var", "body_weight")
    )
    folded = graph.copy(model)
    assert fold_batch_norm(folded) == ["norm"]
    assert "BatchNormalization" not in nets.ops(folded)
    factor = gain / np.sqrt(variance + 1e-5)
    found = nets.array(folded, "body_weight")
    np.testing.assert_allclose(found, weight * factor.reshape(-1, 1, 1, 1), rtol=1e-6)
    np.testing.assert_allclose(nets.array(folded, "body.bias"), shift - mean * factor, rtol=1e-5, atol=1e-7)
    assert not [name for name in folded.graph.initializers if name.startswith("norm")]
    assert_same(model, folded, nets.pictures(5).take(np.arange(5)).inputs)


def test_a_weight_that_two_convs_read_is_copied() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        """
        g (float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] y, float[n, 4, 5, 5] z) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            y = BatchNormalization (a, gain, shift, mean, var)
            z = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        }
        """,
        {
            "w": nets.floats(rng, 4, 4, 3, 3),
            "b": nets.floats(rng, 4),
            "gain": nets.floats(rng, 4),
            "shift": nets.floats(rng, 4),
            "mean": nets.floats(rng, 4),
            "var": rng.uniform(0.5, 2, 4).astype(np.float32),
        },
    )
    folded = graph.copy(model)
    fold_batch_norm(folded)
    assert nets.ops(folded) == ["Conv", "Conv"]
    assert [value.name for value in folded.graph.outputs] == ["y", "z"]
    feed = {"x": nets.floats(rng, 2, 4, 5, 5)}
    for one, other in zip(nets.outputs(model, feed), nets.outputs(folded, feed), strict=True):
        np.testing.assert_allclose(other, one, atol=SAME * np.abs(one).max(), rtol=SAME)


def test_a_conv_that_is_read_twice_keeps_its_batch_norm() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        """
        g (float[n, 2, 5, 5] x) => (float[n, 2, 3, 3] y) {
            a = Conv (x, w)
            b = BatchNormalization (a, one, one, one, one)
            y = Add (a, b)
        }
        """,
        {"w": nets.floats(rng, 2, 2, 3, 3), "one": np.ones(2, np.float32)},
    )
    assert fold_batch_norm(model) == []
    assert "BatchNormalization" in nets.ops(model)


def test_alpha_and_beta_go_into_weight_and_bias() -> None:
    model = nets.perceptron()
    folded = graph.copy(model)
    fold_gemm_factors(folded)
    gemm = next(node for node in folded.graph if node.name == "two")
    assert "alpha" not in gemm.attributes
    assert "beta" not in gemm.attributes
    np.testing.assert_allclose(nets.array(folded, "two_weight"), 0.5 * nets.array(model, "two_weight"))
    assert_same(model, folded, nets.rows(6).take(np.arange(6)).inputs)


def test_an_old_operator_set_is_raised() -> None:
    model = nets.build(
        "g (float[n, 4] x) => (float[n] y) { a = Relu (x) y = ReduceSum <axes = [1], keepdims = 0> (a) }",
        {},
        opset=11,
    )
    raised = raise_opset(model, 13)
    assert raised.opset_imports[""] == 13
    assert_same(model, raised, {"x": nets.floats(np.random.default_rng(0), 3, 4)})
    assert raise_opset(raised, 13) is raised


def test_what_the_converter_cannot_do_is_refused() -> None:
    model = nets.build(
        "g (float[n, 4] x) => (float[n, 4] y) { y = Upsample (x, s) }", {"s": np.float32([1, 1])}, 9
    )
    model.graph.node(0).op_type = "ThereIsNoSuchOp"
    with pytest.raises(UnsupportedError, match=r"operator set 9 cannot be raised to 13"):
        raise_opset(model, 13)


def mean(axes: str, keepdims: int, rank: int = 4) -> ir.Model:
    shape = ", ".join(["n", "3", "4", "5"][:rank])
    left = ", ".join("abcd"[: rank if keepdims else rank - len(axes.split(","))])
    return nets.build(
        f"""
        g (float[{shape}] x) => (float[{left}] y) {{
            y = ReduceMean<keepdims = {keepdims}>(x, axes)
        }}
        """,
        {"axes": np.array(axes.split(","), np.int64)},
    )


@pytest.mark.parametrize(("axes", "keepdims"), [("2, 3", 0), ("-1, -2", 1)])
def test_a_mean_over_space_is_a_pooling(axes: str, keepdims: int) -> None:
    model = mean(axes, keepdims)
    pooled = graph.copy(model)
    assert len(pool_means(pooled)) == 1
    assert "ReduceMean" not in nets.ops(pooled)
    assert "GlobalAveragePool" in nets.ops(pooled)
    x = nets.floats(np.random.default_rng(0), 2, 3, 4, 5)
    (found,) = nets.outputs(pooled, {"x": x})
    expected = x.astype(np.float64).mean(axis=(2, 3), keepdims=bool(keepdims))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32 sums


@pytest.mark.parametrize(("axes", "rank"), [("1", 4), ("3", 4), ("1, 2", 4), ("2", 3)])
def test_other_means_are_left_alone(axes: str, rank: int) -> None:
    model = mean(axes, 0, rank)
    assert pool_means(model) == []
    assert "ReduceMean" in nets.ops(model)


def test_a_mean_that_skip_names_stays() -> None:
    model = mean("2, 3", 0)
    model.graph.node(0).name = "pool"
    assert pool_means(model, {"pool"}) == []
    assert nets.ops(model) == ["ReduceMean"]
