"""Load and save without a change in between: the same outputs, bit for bit, under the same names.

Oracle: stock onnxruntime on the file as it was written, without and with its optimisations.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from mlcompress import graph

Write = Callable[..., Path]
CONTRIB = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2, "com.microsoft" : 1]>'

CASES = {
    "symbolic axes": (
        """net (float[batch, steps, 4] x, int64[batch] rows) => (float[batch, steps, 2] y, int64[batch] z)
           <float[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}> {
            [first] h = MatMul(x, w)
            [second] y = Tanh(h)
            [third] z = Neg(rows)
        }""",
        {"x": (2, 3, 4), "rows": (2,)},
    ),
    "a branch and a loop": (
        """net (float[N, 2] x, bool c, int64 n) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            [pick] h = If (c) <then_branch = t () => (float[N, 2] a) { [in_then] a = MatMul(x, w) },
                               else_branch = e () => (float[N, 2] b) { [in_else] b = Neg(x) }>
            [again] y = Loop(n, c, h) <body = l (int64 i, bool g, float[N, 2] v) => (bool s, float[N, 2] o) {
                [keep] s = Identity(g)
                [step] o = MatMul(v, w) }>
        }""",
        {"x": (3, 2), "c": (), "n": ()},
    ),
    "quantised": (
        """net (float[N, 2] x) => (float[N, 2] y)
           <int8[2, 2] w = {1, 2, 3, 4}, float s = {0.5}, uint8 u = {9}, int8 z = {0}> {
            [q] a = QuantizeLinear(x, s, u)
            [d] b = DequantizeLinear(a, s, u)
            [e] v = DequantizeLinear(w, s, z)
            [m] y = MatMul(b, v)
        }""",
        {"x": (3, 2)},
    ),
    "contrib and unused operator sets": (
        """net (float[N, 4] x) => (float[N, 4] y) { [gelu] h = com.microsoft.Gelu(x)  [out] y = Relu(h) }""",
        {"x": (3, 4)},
    ),
    "half precision": (
        """net (float16[N, 2] x) => (float16[N, 2] y) <float16[2, 2] w = {1, 2, 3, 4}> {
            [m] h = MatMul(x, w)
            [r] y = Softmax(h)
        }""",
        {"x": (3, 2)},
    ),
}


def outputs(path: Path, level: ort.GraphOptimizationLevel, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feed)


def feed_of(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feed = {}
    for value in proto.graph.input:
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        numbers = rng.standard_normal(shapes[value.name])
        feed[value.name] = np.asarray(numbers if dtype.kind == "f" else 1 + (numbers > 0), dtype)
    return feed


def named(graph_: onnx.GraphProto) -> tuple[list[str], set[str]]:
    """Node names in order and the names of values, sub-graphs included."""
    nodes, values = [], {tensor.name for tensor in graph_.initializer}
    for node in graph_.node:
        nodes.append(node.name)
        values.update(node.output)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                inner = named(attribute.g)
                nodes += inner[0]
                values |= inner[1]
    return nodes, values


@pytest.mark.parametrize("case", CASES)
def test_nothing_changes(write: Write, tmp_path: Path, case: str) -> None:
    text, shapes = CASES[case]
    path, out = write(text, CONTRIB), tmp_path / "out.onnx"
    graph.save(graph.load(path), out)
    before, after = onnx.load(path), onnx.load(out)
    for one, other in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        assert [value.SerializeToString() for value in other] == [value.SerializeToString() for value in one]
    assert {s.domain: s.version for s in after.opset_import} == {
        s.domain: s.version for s in before.opset_import
    }
    assert after.ir_version == before.ir_version
    assert named(after.graph) == named(before.graph)
    feed, level = feed_of(before, shapes), ort.GraphOptimizationLevel
    for chosen in (level.ORT_DISABLE_ALL, level.ORT_ENABLE_ALL):
        for found, wanted in zip(outputs(out, chosen, feed), outputs(path, chosen, feed), strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


def test_a_second_round_trip_gives_the_same_bytes(write: Write, tmp_path: Path) -> None:
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    graph.save(graph.load(write(CASES["a branch and a loop"][0])), first)
    graph.save(graph.load(first), second)
    assert second.read_bytes() == first.read_bytes()


def test_what_the_author_wrote_is_kept_and_paths_are_not(write: Write, tmp_path: Path) -> None:
    path, out = write("net (float[N] x) => (float[N] y) { y = Relu(x) }"), tmp_path / "out.onnx"
    proto = onnx.load(path)
    kept = {
        "names": "{0: 'cat', 1: 'dog and/or wolf'}",
        "licence": "https://www.apache.org/licenses/LICENSE-2.0",
        "source": "see http://example.com/train.py for how it was made",
        "stride": "32",
    }
    dropped = {
        "pkg.torch.onnx.class_hierarchy": "['Net']",
        "checkpoint": "/home/somebody/run.pt",
        "args": "data=C:\\\\data",
        "mixed": "https://example.com made by /root/x",
    }
    helper.set_model_props(proto, {**kept, **dropped})
    proto.domain, proto.model_version, proto.doc_string = "org.example", 7, "Cats and dogs, v7"
    path.write_bytes(proto.SerializeToString())
    graph.save(graph.load(path), out)
    after = onnx.load(out)
    assert {entry.key: entry.value for entry in after.metadata_props} == kept
    assert (after.domain, after.model_version, after.doc_string) == ("org.example", 7, "Cats and dogs, v7")
    proto.doc_string = "exported from /home/somebody/net.py"
    path.write_bytes(proto.SerializeToString())
    graph.save(graph.load(path), out)
    assert onnx.load(out).doc_string == ""


def test_nodes_of_a_branch_that_is_always_taken_keep_their_names(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y) <bool yes = {1}, float[2, 2] w = {1, 2, 3, 4}> {
            [choice] y = If (yes) <
                then_branch = t () => (float[N, 2] a) { [product] h = MatMul(x, w)  [act] a = Relu(h) },
                else_branch = e () => (float[N, 2] b) { [other] b = Neg(x) }>
        }"""
    )
    assert [node.name for node in graph.load(path).graph] == ["product", "act"]


def test_external_data_comes_back_inside_one_file(tmp_path: Path) -> None:
    """Below 2 GiB one file is easier to ship; the layout of larger ones is in test_save."""
    rng = np.random.default_rng(0)
    net = onnx.parser.parse_graph("net (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }")
    net.initializer.append(
        onnx.numpy_helper.from_array(rng.standard_normal((64, 64)).astype(np.float32), "w")
    )
    path, out = tmp_path / "in.onnx", tmp_path / "folder" / "out.onnx"
    out.parent.mkdir()
    made = helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, path, save_as_external_data=True, location="in.bin", size_threshold=0)
    assert graph.save(graph.load(path), out) == [out]
    feed = {"x": rng.standard_normal((3, 64)).astype(np.float32)}
    wanted = outputs(path, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, feed)
    (tmp_path / "in.bin").unlink()
    np.testing.assert_array_equal(outputs(out, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, feed), wanted)
