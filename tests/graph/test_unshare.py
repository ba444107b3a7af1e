"""Vectors that an exporter merged are given back to their layers; ties stay. Equality is exact."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.graph.onnx_text import cleaned, numbers

Write = Callable[..., Path]

CONVS = """net (float[N, 2, 3, 3] x) => (float[N, 2, 3, 3] y)
    <float[2, 2, 1, 1] v = {1, 2, 3, 4}, float[2, 2, 1, 1] w = {5, 6, 7, 8}, float[2] b = {1, 2}> """


def test_a_merged_bias_is_unshared(write: Write) -> None:
    model = cleaned(write(CONVS + "{ [one] h = Conv(x, v, b)  [two] y = Conv(h, w, b) }"), (2, 2, 3, 3))
    assert [node.inputs[2].name for node in model.graph] == ["b", "b_1"]
    np.testing.assert_array_equal(numbers(model, "b_1"), [1, 2])


def test_the_bias_of_a_block_applied_twice_stays_tied(write: Write) -> None:
    model = cleaned(write(CONVS + "{ [one] h = Conv(x, w, b)  [two] y = Conv(h, w, b) }"), (2, 2, 3, 3))
    assert [node.inputs[2].name for node in model.graph] == ["b", "b"]


def test_untrained_scales_are_no_tie_but_trained_norms_are(write: Write) -> None:
    net = """net (float[N, 2] x) => (float[N, 2] y)
        <float[2] s = {%s}, float[2] b = {%s}> {
            h = LayerNormalization(x, s, b)
            y = LayerNormalization(h, s, b)
        }"""
    untrained = cleaned(write(net % ("1, 1", "0, 0")), (3, 2))
    assert [node.inputs[1].name for node in untrained.graph] == ["s", "s_1"]
    trained = cleaned(write(net % ("1, 2", "3, 4")), (3, 2))
    assert [node.inputs[1].name for node in trained.graph] == ["s", "s"]


def test_copies_get_free_names(write: Write) -> None:
    text = CONVS.replace("float[2] b = {1, 2}", "float[2] b = {1, 2}, float[1] b_1 = {3}")
    model = cleaned(write(text + "{ h = Conv(x, v, b)  g = Conv(h, w, b)  y = Add(g, b_1) }"), (2, 2, 3, 3))
    assert [node.inputs[-1].name for node in model.graph] == ["b", "b_2", "b_1"]


def test_scalars_integers_and_matrices_stay_shared(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y)
           <float half = {0.5}, int64[2] size = {0, 2}, float[2, 2] w = {1, 2, 3, 4}> {
            a = Mul(x, half)
            b = Mul(a, half)
            c = MatMul(b, w)
            d = MatMul(c, w)
            e = Reshape(d, size)
            f = Neg(e)
            y = Reshape(f, size)
        }"""
    )
    assert set(cleaned(path, (3, 2)).graph.initializers) <= {"half", "size", "w"}
