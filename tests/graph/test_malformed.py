"""Graphs that cannot be what they say: one clear line each, with the names. What only looks odd is kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlcompress import graph
from mlcompress.errors import ModelError
from tests.graph.onnx_text import MLP, initializer_of, numbers, refused

Write = Callable[..., Path]
MALFORMED = {
    "cycle": ("net (float[N] x) => (float[N] y) { [a] h = Add(x, y)  [b] y = Relu(h) }", "cycle through"),
    "self-loop": ("net (float[N] x) => (float[N] y) { [a] y = Add(x, y) }", "cycle through a"),
    "undefined input": ("net (float[N] x) => (float[N] y) { y = Add(x, lost) }", "nothing defines: lost"),
    "undefined output": (
        "net (float[N] x) => (float[N] y) { h = Relu(x) }",
        "outputs that nothing defines: y",
    ),
    "value twice": ("net (float[N] x) => (float[N] y) { y = Relu(x)  y = Neg(x) }", "more than once: y"),
    "input twice": ("net (float[N] x, float[N] x) => (float[N] y) { y = Relu(x) }", "more than once: x"),
    "node name twice": (
        "net (float[N] x) => (float[N] y) { [a] h = Relu(x)  [a] y = Neg(h) }",
        "same name: a",
    ),
    "shadowed": (
        """net (float[N] x, bool c) => (float[N] y) { h = Neg(x)
            y = If (c) <then_branch = t () => (float[N] h) { h = Relu(x) },
                        else_branch = e () => (float[N] o) { o = Relu(h) }> }""",
        "more than once: h",
    ),
    "undefined in a branch": (
        """net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] a) { a = Relu(lost) },
                        else_branch = e () => (float[N] b) { b = Relu(x) }> }""",
        "nothing defines: lost",
    ),
    "unknown op": ("net (float[N] x) => (float[N] y) { y = Reluu(x) }", "Reluu"),
    "wrong type": ("net (float[N] x) => (int64[N] y) { y = Relu(x) }", "onnxruntime cannot load it"),
    "wrong attribute": ("net (float[N] x) => (float[N] y) { y = Softmax<axes = 1>(x) }", "axes"),
    "initializer and node": (
        "net (float[N] x) => (float[N] y) <float[1] w = {1}> { w = Neg(x)  y = Add(x, w) }",
        "more than once: w",
    ),
    "input and node": ("net (float[N] x) => (float[N] y) { x = Neg(x)  y = Relu(x) }", "more than once: x"),
    "output twice": (
        "net (float[N] x) => (float[N] y, float[N] y) { y = Relu(x) }",
        "listed more than once: y",
    ),
    "no output": ("net (float[N] x) => () { y = Relu(x) }", "has no outputs"),
    "value twice in a branch": (
        """net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] a) { a = Relu(x)  a = Neg(x) },
                        else_branch = e () => (float[N] b) { b = Neg(x) }> }""",
        "more than once: a",
    ),
    "a branch gives what nothing makes": (
        """net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] a) { b = Relu(x) },
                        else_branch = e () => (float[N] d) { d = Neg(x) }> }""",
        "nothing defines: a",
    ),
    "a branch is missing": (
        """net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] a) { a = Relu(x) }> }""",
        "onnxruntime cannot load it",
    ),
    "a loop body of another arity": (
        """net (float[N] x, int64 n, bool c) => (float[N] y) {
            y = Loop(n, c, x) <body = b (int64 i, bool g) => (bool h) { h = Identity(g) }> }""",
        "onnxruntime cannot load it",
    ),
    "cycle in a branch": (
        """net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] a) { a = Relu(b)  b = Neg(a) },
                        else_branch = e () => (float[N] d) { d = Neg(x) }> }""",
        "cycle through",
    ),
    "ranks of a Conv": (
        "net (float[N, 3, 4] x) => (float[N, 2, 4] y) <float[1, 1, 1, 1] w = {1}> { y = Conv(x, w) }",
        "dimensions",
    ),
    "lengths of a product": (
        "net (float[N, 3] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }",
        "onnxruntime cannot load it",
    ),
    "types of a sum": (
        "net (float[N] x) => (float[N] y) <int64[1] w = {1}> { y = Add(x, w) }",
        "onnxruntime cannot load it",
    ),
    "a target of three unknowns": (
        "net (float[N, 3] x) => (float[N, 3] y) <int64[3] s = {-1, -1, -1}> { y = Reshape(x, s) }",
        "onnxruntime cannot load it",
    ),
    "no shape": ("net (float[] x) => (float[] y) { y = Relu(x) }", "no shape"),
    "sequence": ("net (seq(float[N]) x) => (seq(float[N]) y) { y = Identity(x) }", "no tensor"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_graph_is_refused_with_the_names(write: Write, case: str) -> None:
    text, said = MALFORMED[case]
    path = write(text)
    with pytest.raises(ModelError) as caught:
        graph.load(path)
    assert any(said in line for line in caught.value.lines)


def test_unknown_domain_and_future_versions_are_refused_by_name(write: Write) -> None:
    net = "net (float[N] x) => (float[N] y) { y = com.example.Mystery(x) }"
    line = refused(write(net, '<ir_version: 10, opset_import: ["" : 18, "com.example" : 1]>'))
    assert "com.example:Mystery" in line
    relu = "net (float[N] x) => (float[N] y) { y = Relu(x) }"
    assert "opset" in refused(write(relu, '<ir_version: 10, opset_import: ["" : 99]>'))
    assert "IR version" in refused(write(relu, '<ir_version: 99, opset_import: ["" : 18]>'))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.dims.extend([1 << 40, 1 << 40]), "impossible shape"),
        (lambda t: t.dims.extend([-3]), "impossible shape"),
        (lambda t: t.dims.extend([1000]), "by its shape"),
        (lambda t: t.float_data.pop(), "3 values, 4 by its shape"),
        (lambda t: setattr(t, "data_type", 77), "unknown element type"),
        (lambda t: (t.ClearField("float_data"), setattr(t, "raw_data", b"12345")), "5 bytes of data, 16"),
    ],
)
def test_a_tensor_must_hold_what_its_shape_says(write: Write, change: Callable, said: str) -> None:
    path = write(MLP)
    initializer_of(path, change)
    line = refused(path)
    assert "tensor w: " in line
    assert said in line


def test_an_initializer_twice(write: Write) -> None:
    path = write(MLP)
    proto = onnx.load(path)
    proto.graph.initializer.append(proto.graph.initializer[0])
    path.write_bytes(proto.SerializeToString())
    assert "more than once: w" in refused(path)


FUNCTIONS = '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>'
CALL = "net (float[N] x) => (float[N] y) { y = local.F0(x) }"


def functions(*bodies: str) -> str:
    heads = [
        f'<domain: "local", opset_import: ["" : 18, "local" : 1]> F{i} (p) => (r)' for i in range(len(bodies))
    ]
    return CALL + "".join(f"{head} {{ {body} }}\n" for head, body in zip(heads, bodies, strict=True))


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        (["r = local.F0(p)"], "call themselves: F0"),
        (["r = local.F1(p)", "r = local.F2(p)", "r = local.F0(p)"], "call themselves"),
        (["r = Add(p, lost)"], "function F0: values that nothing defines: lost"),
        (
            [f"q = local.F{i}(p)  r = local.F{i}(q)" for i in range(1, 30)] + ["r = Relu(p)"],
            "536,870,912 nodes",
        ),
    ],
    ids=["itself", "each other", "undefined", "doubling 29 times"],
)
def test_functions_without_end(write: Write, bodies: list[str], said: str) -> None:
    assert said in refused(write(functions(*bodies), FUNCTIONS))


@pytest.mark.parametrize("size", [4, 16, 64])
def test_functions_that_call_others_are_inlined(write: Write, size: int) -> None:
    """The negative control: a chain, and not a doubling."""
    bodies = [f"r = local.F{i}(p)" for i in range(1, size)] + ["r = Relu(p)"]
    assert [node.op_type for node in graph.load(write(functions(*bodies), FUNCTIONS)).graph] == ["Relu"]


NAN, INF = float("nan"), float("inf")
TABLE = """
    net (int64[N] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {0, 0}> {
        [row] h = Gather(w, x)
        [mask] y = Add(h, b)
    }
"""


def test_nan_in_what_is_multiplied_is_refused(write: Write) -> None:
    path = write(MLP)
    initializer_of(path, lambda t: t.float_data.__setitem__(slice(0, 2), [NAN, NAN]))
    assert "tensor w: 2 of 4 numbers are NaN, and first (MatMul) computes with all of them" in refused(path)


@pytest.mark.parametrize(
    ("net", "tensor", "numbers_", "said"),
    [
        (MLP, 0, [INF, 1, 1, 1], "w: infinite numbers in a weight of first (MatMul)"),
        (TABLE, 0, [NAN, 1, 1, 1], "w: holds NaN"),  # a row that nobody reads, perhaps
        (TABLE, 1, [-INF, 0], None),  # a mask
        (MLP, 0, [3e38, -3e38, 1e-45, 0], None),
    ],
)
def test_other_odd_numbers_are_kept_and_told(
    write: Write,
    capsys: pytest.CaptureFixture,
    net: str,
    tensor: int,
    numbers_: list[float],
    said: str | None,
) -> None:
    path = write(net)
    proto = onnx.load(path)
    proto.graph.initializer[tensor].float_data[:] = numbers_
    path.write_bytes(proto.SerializeToString())
    model = graph.load(path)
    found = numbers(model, proto.graph.initializer[tensor].name)
    np.testing.assert_array_equal(found.ravel(), np.array(numbers_, np.float32))
    told = capsys.readouterr().err
    assert told == ("" if said is None else f"warning: {path}: tensor {said}\n")


def test_a_huge_constant_is_not_computed(write: Write) -> None:
    """Expand of 8 bytes to 8 TB: neither folded nor refused, since nothing runs it at load."""
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y, float[A, B] z)
           <float[1] one = {1}, int64[2] size = {1048576, 1048576}> {
            y = Relu(x)
            h = Expand(one, size)
            z = Neg(h)
        }"""
    )
    model = graph.load(path)
    assert [node.op_type for node in model.graph] == ["Relu", "Expand", "Neg"]


@pytest.mark.parametrize(
    ("places", "shape", "said"),
    [
        ([0, 9], [2, 2], "indices outside its shape"),
        ([-1, 1], [2, 2], "indices outside its shape"),
        ([0, 1, 2], [2, 2], "2 values with indices of shape [3]"),
        ([0, 1], [2**20, 2**20], "too large for the 2 numbers in it"),
        ([0, 1], [2**29], "too large for the 2 numbers in it"),
        ([0, 1], [-2, 2], "impossible shape"),
    ],
    ids=["outside", "negative", "too many", "terabytes", "gigabytes", "negative length"],
)
def test_sparse_tensors_that_do_not_add_up(
    tmp_path: Path, places: list[int], shape: list[int], said: str
) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [len(places)], places)
    net = onnx.parser.parse_graph("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul(x, w) }")
    sparse = onnx.SparseTensorProto()
    sparse.values.CopyFrom(values)
    sparse.indices.CopyFrom(indices)
    sparse.dims.extend(shape)
    net.sparse_initializer.append(sparse)
    path = tmp_path / "sparse.onnx"
    path.write_bytes(
        helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    assert said in refused(path)
