"""Constant folding. Oracle: onnxruntime at DISABLE_ALL, which folds nothing; equality is exact."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlcompress import graph
from tests.graph.onnx_text import cleaned, numbers, ops, run

Write = Callable[..., Path]


def test_a_computed_zero_bias_is_dropped(write: Write) -> None:
    """What torch's exporter writes for Conv without a bias: it keeps BatchNormalization from being fused."""
    path = write(
        """net (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) <float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}> {
            zero = Constant<value_float = 0.0>()
            like = CastLike(zero, w)
            size = Shape<start = 0, end = 1>(w)
            b = Expand(like, size)
            y = Conv(x, w, b)
        }"""
    )
    model = cleaned(path, (2, 3, 4, 4))
    assert ops(model) == ["Conv"]
    assert len(model.graph.node(0).inputs) == 2
    assert list(model.graph.initializers) == ["w"]


def test_a_stored_zero_bias_and_a_computed_other_bias_stay(write: Write) -> None:
    path = write(
        """net (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y)
           <float[1, 1, 1, 1] w = {2}, float[1] stored = {0}, float one = {1}, int64[1] size = {1}> {
            computed = Expand(one, size)
            h = Conv(x, w, stored)
            y = Conv(h, w, computed)
        }"""
    )
    model = cleaned(path, (2, 1, 4, 4))
    assert [len(node.inputs) for node in model.graph] == [3, 3]
    assert numbers(model, "computed") == [1]


def test_shape_arithmetic_folds_at_fixed_axes_and_keeps_the_batch(write: Write) -> None:
    """Flatten as exporters write it: Reshape(x, Concat(batch, -1))."""
    path = write(
        """net (float[N, 2, 3] x) => (float[N, 6] y, float[N, 2, 3] z)
           <int64 zero = {0}, int64[1] first = {0}, int64[1] rest = {-1}, int64[1] start = {1},
            int64[1] end = {3}> {
            s = Shape(x)
            n = Gather(s, zero)
            b = Unsqueeze(n, first)
            target = Concat<axis = 0>(b, rest)
            y = Reshape(x, target)
            tail = Slice(s, start, end)
            size = ReduceProd<keepdims = 0>(tail)
            f = Cast<to = 1>(size)
            z = Div(x, f)
        }"""
    )
    model = cleaned(path, (5, 2, 3))
    assert numbers(model, "f") == 6
    assert "Reshape" in ops(model)
    for batch in (1, 4):
        (y, _) = run(graph.to_bytes(model), {"x": np.zeros((batch, 2, 3), np.float32)})
        assert y.shape == (batch, 6)


def test_if_with_a_known_condition_becomes_its_branch(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y) <int64 two = {2}, float[2, 2] w = {1, 2, 3, 4}> {
            s = Shape<start = 1, end = 2>(x)
            e = Equal(s, two)
            c = Squeeze(e)
            y = If (c) <
                then_branch = t () => (float[N, 2] a) { t1 = Transpose(w)  a = MatMul(x, t1) },
                else_branch = f () => (float[N, 2] b) { b = MatMul(x, w) }>
        }"""
    )
    model = cleaned(path, (3, 2))
    assert ops(model) == ["MatMul"]
    np.testing.assert_array_equal(numbers(model, "t1"), [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("stored", "chain"),
    [
        ("int4[2, 3] w = {-8, 7, 1, 0, 3, -1}, float[2, 1] s = {2, 3}", "f = Cast<to = 1>(w)  d = Mul(f, s)"),
        ("uint4[2, 3] w = {0, 3, 1, 0, 3, 2}, float[4] s = {9, 1, 2, 3}",
         "f = Cast<to = 6>(w)  d = Gather(s, f)"),
        ("uint8[3, 1] w = {33, 3, 18}, uint8[1, 2] s = {0, 4}, uint8 m = {15}, int64[2] t = {2, 3}",
         'f = BitShift<direction = "RIGHT">(w, s)  g = BitwiseAnd(f, m)'
         "  h = Cast<to = 1>(g)  d = Reshape(h, t)"),
        ("uint4[2] w = {1, 3}, int64 zero = {0}, int64[1] n = {6}, int64 one = {1}, float[2] v = {5, 6},"
         "int64[2] t = {2, 3}",
         "f = Cast<to = 7>(w)  c = CumSum(f, zero)  p = Sub(c, one)  z = ConstantOfShape(n)"
         "  e = ScatterElements<axis = 0>(z, p, v)  d = Reshape(e, t)"),
        ("float16[2, 3] w = {1, 2, 3, 4, 5, 6}", "d = Cast<to = 1>(w)"),
    ],
    ids=["int4", "codebook", "packed", "relative", "fp16"],
)  # fmt: skip
def test_stored_forms_decode_to_plain_weights(write: Write, stored: str, chain: str) -> None:
    """What earlier stages write: later ones must see the weight under its name."""
    path = write(
        f"net (float[N, 2] x) => (float[N, 3] y) <{stored}> {{ {chain}  y = MatMul(x, d) }}",
        '<ir_version: 10, opset_import: ["" : 21]>',
    )
    model = cleaned(path, (4, 2))
    assert ops(model) == ["MatMul"]
    assert list(model.graph.initializers) == ["d"]


def test_quantisation_of_weights_is_kept(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y, float[N, 2] z)
           <int8[2, 2] w = {1, 2, 3, 4}, float[2, 2] v = {1, 2, 3, 4}, float s = {0.5}, int8 o = {0}> {
            d = DequantizeLinear(w, s, o)
            y = MatMul(x, d)
            q = QuantizeLinear(v, s, o)
            e = DequantizeLinear(q, s, o)
            z = MatMul(x, e)
        }"""
    )
    assert ops(cleaned(path, (3, 2))).count("DequantizeLinear") == 2


def test_a_chain_below_dequantisation_folds(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y)
           <int4[2, 2] w = {1, 2, 3, 4}, int8 step = {16}, float s = {0.5}, int8 o = {0}> {
            a = Cast<to = 3>(w)
            b = Mul(a, step)
            d = DequantizeLinear(b, s, o)
            y = MatMul(x, d)
        }""",
        '<ir_version: 10, opset_import: ["" : 21]>',
    )
    model = cleaned(path, (3, 2))
    assert ops(model) == ["DequantizeLinear", "MatMul"]
    assert numbers(model, "b").dtype == np.int8


def test_random_ops_are_not_evaluated(write: Write) -> None:
    path = write(
        """net (float[2] x) => (float[2] y) <float[2] p = {0.5, 0.5}> {
            r = Bernoulli<seed = 1.0>(p)
            y = Add(x, r)
        }"""
    )
    assert "Bernoulli" in ops(graph.load(path))


TABLE = "float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}"


def test_a_tied_matrix_stays_one(write: Write) -> None:
    path = write(
        f"""net (int64[N] x) => (float[N, 4] y) <{TABLE}> {{
            e = Gather(table, x)
            t = Transpose(table)
            y = MatMul(e, t)
        }}"""
    )
    model = graph.load(path)
    assert ops(model) == ["Gather", "Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["table"]


def test_two_whole_views_of_a_matrix_are_a_tie(write: Write) -> None:
    path = write(
        f"""net (float[N, 2] x) => (float[N, 4] y, float[N, 4] z) <{TABLE}> {{
            a = Transpose(table)
            y = MatMul(x, a)
            b = Transpose(table)
            z = MatMul(x, b)
        }}"""
    )
    assert ops(cleaned(path, (3, 2))).count("Transpose") == 2


def test_slices_of_one_projection_fold(write: Write) -> None:
    path = write(
        f"""net (float[N, 2] x) => (float[N, 2] y, float[N, 2] z)
           <{TABLE}, int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] four = {{4}}> {{
            a = Slice(table, zero, two)
            y = MatMul(x, a)
            b = Slice(table, two, four)
            z = MatMul(x, b)
        }}"""
    )
    model = cleaned(path, (3, 2))
    assert ops(model) == ["MatMul", "MatMul"]
    assert set(model.graph.initializers) == {"a", "b"}


def test_small_constants_are_not_blown_up(write: Write) -> None:
    """A mask of 1 MB that 16 bytes compute is left alone; a weight is not, however it is computed.

    Computed weights of MatMul are packed for another order of summation, so no exact comparison here.
    """
    path = write(
        """net (float[512, 512] x) => (float[512, 512] y, float[512, 512] z)
           <int64[2] size = {512, 512}> {
            mask = ConstantOfShape<value = float[1] {3}>(size)
            y = Max(x, mask)
            w = ConstantOfShape<value = float[1] {2}>(size)
            z = MatMul(x, w)
        }"""
    )
    model = graph.load(path)
    assert ops(model) == ["ConstantOfShape", "Max", "MatMul"]
    assert "w" in model.graph.initializers
