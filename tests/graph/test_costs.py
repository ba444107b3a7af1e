"""Parameters, MACs and shapes, against hand counts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlcompress import graph
from mlcompress.errors import ModelError

Write = Callable[..., Path]


def zeros(kind: str, name: str, *shape: int) -> str:
    """An initializer as ONNX text."""
    values = ", ".join(["0"] * int(np.prod(shape)))
    return f"{kind}[{', '.join(map(str, shape))}] {name} = {{{values}}}"


CONV = f"""net (float[N, 4, 9, 9] x) => (float[N, 8, 5, 5] y, float[N, 3, 19, 19] z)
    <{zeros("float", "w", 8, 2, 3, 3)}, {zeros("float", "b", 8)}, {zeros("float", "t", 4, 3, 3, 3)}> {{
    y = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b)
    z = ConvTranspose<strides = [2, 2]>(x, t)
}}"""


def test_convolutions(write: Write) -> None:
    model = graph.load(write(CONV))
    conv, transposed = graph.layers(model)
    assert conv == graph.Layer("Conv", "Conv", "w", (8, 2, 3, 3), 8 * 2 * 9 + 8, 8 * 5 * 5 * 2 * 9)
    assert transposed.macs == 4 * 9 * 9 * 3 * 9  # every input element meets every weight of its channel
    assert graph.parameters(model) == 152 + 108
    assert graph.macs(model) == conv.macs + transposed.macs
    assert graph.macs(model, batch=5) == 5 * graph.macs(model)


def test_products(write: Write) -> None:
    path = write(
        f"""net (float[N, 6] x, float[N, T, 4] s) => (float[N, 3] y, float[N, T, T] a)
            <{zeros("float", "w", 3, 6)}, {zeros("float", "b", 3)}> {{
            y = Gemm<transB = 1>(x, w, b)
            k = Transpose<perm = [0, 2, 1]>(s)
            a = MatMul(s, k)
        }}"""
    )
    model = graph.load(path)
    rows = {row.name: row for row in graph.layers(model, shapes={"s": (1, 7, 4)})}
    assert (rows["Gemm"].macs, rows["Gemm"].params) == (18, 21)
    assert (rows["MatMul"].macs, rows["MatMul"].params, rows["MatMul"].weight) == (7 * 7 * 4, 0, "")
    assert graph.macs(model, shapes={"s": (1, 7, 4)}) == 18 + 196
    assert graph.macs(model, batch=2) == 2 * (18 + 16 * 16 * 4)  # 16: other dynamic axes


def test_a_transposed_product(write: Write) -> None:
    path = write("net (float[5, 7] a, float[5, 3] b) => (float[7, 3] y) { y = Gemm<transA = 1>(a, b) }")
    assert graph.macs(graph.load(path)) == 7 * 3 * 5


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(write: Write, op: str, gates: int) -> None:
    path = write(
        f"""net (float[7, N, 5] x) => (float[7, 2, N, 3] y)
            <{zeros("float", "w", 2, gates * 3, 5)}, {zeros("float", "r", 2, gates * 3, 3)}> {{
            y = {op}<hidden_size = 3, direction = "bidirectional">(x, w, r)
        }}"""
    )
    model = graph.load(path)
    assert graph.macs(model, batch=2) == 7 * 2 * 2 * gates * 3 * (5 + 3)
    assert graph.parameters(model) == 2 * gates * 3 * 8


def test_tied_weights_count_once(write: Write) -> None:
    path = write(
        f"""net (int64[N] x) => (float[N, 5] y) <{zeros("float", "table", 5, 2)}> {{
            e = Gather(table, x)
            t = Transpose(table)
            y = MatMul(e, t)
        }}"""
    )
    model = graph.load(path)
    assert graph.parameters(model) == 10
    assert [(row.op, row.weight, row.params) for row in graph.layers(model)] == [
        ("Gather", "table", 10),
        ("MatMul", "table", 10),
    ]


def test_what_is_not_trained_does_not_count(write: Write) -> None:
    path = write(
        f"""net (float[N, 2] x) => (float[N, 2] y)
            <{zeros("float", "s", 2)}, {zeros("float", "b", 2)}, {zeros("float", "m", 2)},
             float[2] v = {{1, 1}}, float low = {{0}}, float high = {{6}}, float half = {{0.5}},
             int64[2] size = {{0, 2}}, {zeros("float", "bias", 2)}> {{
            h = BatchNormalization(x, s, b, m, v)
            c = Clip(h, low, high)
            d = Mul(c, half)
            e = Reshape(d, size)
            f = Relu(e)
            g = Reshape(f, size)
            y = Add(g, bias)
        }}"""
    )
    assert graph.parameters(graph.load(path)) == 2 + 2 + 2  # scale, shift, bias


def test_integer_weights_count_like_the_floats_they_stand_for(write: Write) -> None:
    path = write(
        f"""net (float[N, 2] x) => (float[N, 3] y)
            <{zeros("int8", "w", 2, 3)}, float[3] s = {{1, 1, 1}}, {zeros("int8", "o", 3)}> {{
            d = DequantizeLinear<axis = 1>(w, s, o)
            y = MatMul(x, d)
        }}"""
    )
    model = graph.load(path)
    assert graph.parameters(model) == 6
    (row,) = graph.layers(model)
    assert (row.op, row.weight, row.params, row.macs) == ("MatMul", "w", 6, 6)


def test_shapes_that_only_running_shows(write: Write) -> None:
    """How many rows are kept depends on the numbers of an input, here the seeded ones."""
    path = write(
        f"""net (float[12, 3] x) => (float[R, 5] y) <{zeros("float", "w", 3, 5)}, float zero = {{0}}> {{
            sums = ReduceSum<keepdims = 0>(x, one)
            keep = Greater(sums, zero)
            rows = Compress<axis = 0>(x, keep)
            y = MatMul(rows, w)
        }}""".replace("<float", "<int64[1] one = {1}, float", 1)
    )
    model = graph.load(path)
    x = graph.example_feed(graph.signature(model), {"x": (12, 3)})["x"]
    kept = int((x.sum(1) > 0).sum())
    assert 0 < kept < 12
    assert graph.macs(model) == kept * 3 * 5


def test_both_branches_are_counted(write: Write) -> None:
    path = write(
        f"""net (float[N, 2] x, bool c) => (float[N, K] y)
            <{zeros("float", "a", 2, 3)}, {zeros("float", "b", 2, 4)}> {{
            y = If (c) <then_branch = t () => (float[N, 3] p) {{ p = MatMul(x, a) }},
                        else_branch = e () => (float[N, 4] q) {{ q = MatMul(x, b) }}>
        }}"""
    )
    model = graph.load(path)
    assert graph.macs(model) == 6 + 8
    assert graph.parameters(model) == 6 + 8


def test_inferred_shapes_are_static_where_provable_and_keep_the_signature(write: Write) -> None:
    model = graph.load(write(CONV))
    graph.infer_shapes(model)
    before = graph.signature(model)
    assert before.outputs[0].shape == ("N", 8, 5, 5)
    wide = graph.load(
        write(
            """net (float[N, 4, 9, 9] x) => (float[A, B] y) <int64[2] s = {0, -1}> {
                h = Relu(x)
                y = Reshape(h, s)
            }"""
        )
    )
    graph.infer_shapes(wide)
    assert list(wide.graph.node(0).outputs[0].shape)[1:] == [4, 9, 9]
    assert graph.signature(wide).outputs[0].shape == ("A", "B")


def test_example_shapes_and_feeds(write: Write) -> None:
    path = write(
        """net (float[N, T, 4] x, float[2, N, 3] state, int64[T] ids)
            => (float[N, T, 4] y, float[2, N, 3] z, int64[T] i) {
            y = Relu(x)
            z = Relu(state)
            i = Neg(ids)
        }"""
    )
    signature = graph.signature(graph.load(path))
    assert graph.example_shapes(signature, batch=3, other=5) == {
        "x": (3, 5, 4),
        "state": (2, 3, 3),
        "ids": (5,),
    }
    # a shape that is given fixes the axes of the same names elsewhere
    assert graph.example_shapes(signature, batch=3, other=5, shapes={"x": (1, 7, 4)}) == {
        "x": (1, 7, 4),
        "state": (2, 1, 3),
        "ids": (7,),
    }
    feed = graph.example_feed(signature, graph.example_shapes(signature))
    assert {name: array.dtype for name, array in feed.items()} == {
        "x": np.float32,
        "state": np.float32,
        "ids": np.int64,
    }
    assert set(np.unique(feed["ids"])) <= {0, 1}
    with pytest.raises(ModelError) as caught:
        graph.example_shapes(signature, shapes={"lost": (1,), "x": (1, 2, 3), "state": (2, 1)})
    assert len(caught.value.lines) == 3
