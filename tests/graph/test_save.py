"""Saving: the same bytes each time, nothing about the machine, and outputs bit-equal to the input's."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.errors import ModelError
from tests.graph.onnx_text import MLP, numbers, run

Write = Callable[..., Path]
BRANCHES = """net (float[N, 2] x, bool c) => (float[N, 2] y)
    <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 2}> {
    h = MatMul(x, w)
    g = Add(h, b)
    k = Mul(g, b)
    y = If (c) <then_branch = t () => (float[N, 2] a) { a = MatMul(k, w) },
                else_branch = e () => (float[N, 2] d) { d = Relu(k) }>
}"""
SCRIPT = "import sys; from mlcompress import graph; graph.save(graph.load(sys.argv[1]), sys.argv[2])"


def test_same_bytes_in_processes_with_other_hash_seeds(write: Write, tmp_path: Path) -> None:
    path, saved = write(BRANCHES), []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.onnx"
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(graph.__file__).parents[2]),
        }
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path), str(out)], check=True, env=environment, cwd=tmp_path
        )
        saved.append(out.read_bytes())
    assert saved[0] == saved[1]
    assert str(tmp_path).encode() not in saved[0]


def test_unchanged_outputs_are_bit_equal(write: Write, tmp_path: Path) -> None:
    path, out = write(BRANCHES), tmp_path / "out.onnx"
    assert graph.save(graph.load(path), out) == [out]
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    for choice in (True, False):
        feed = {"x": x, "c": np.array(choice)}
        np.testing.assert_array_equal(run(out, feed)[0], run(path, feed)[0])
    onnx.checker.check_model(str(out), full_check=True)


def test_the_message_is_plain(write: Write) -> None:
    proto = onnx.load_from_string(graph.to_bytes(graph.load(write(MLP))))
    assert proto.producer_name == "mlcompress"
    assert not proto.graph.value_info
    assert all(tensor.raw_data for tensor in proto.graph.initializer)


def test_shapes_of_contrib_ops_are_kept(write: Write) -> None:
    """ONNX cannot infer them again."""
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y) <float[N, 2] h> {
            h = com.microsoft.Gelu(x)
            y = Relu(h)
        }""",
        '<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>',
    )
    model = graph.load(path)
    assert model.graph.node(0).outputs[0].shape == ir.Shape(["N", 2])
    assert [info.name for info in onnx.load_from_string(graph.to_bytes(model)).graph.value_info] == ["h"]


def test_a_copy_is_independent(write: Write) -> None:
    model = graph.load(write(MLP))
    before = graph.to_bytes(model)
    made = graph.copy(model)
    assert graph.to_bytes(made) == before
    weight = made.graph.initializers["w"]
    weight.name = "renamed"
    weight.const_value = ir.tensor(np.zeros((2, 2), np.float32), name="renamed")
    made.graph.node(0).name = "other"
    assert graph.to_bytes(model) == before
    assert model.graph.initializers["w"].const_value.name == "w"


def test_a_copy_shares_the_numbers(write: Write) -> None:
    model = graph.load(write(MLP))
    assert np.shares_memory(numbers(graph.copy(model), "w"), numbers(model, "w"))


def test_large_models_get_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered: 2 GiB are too much for a test."""
    net = onnx.parser.parse_graph(
        "net (float[N, 32] x) => (float[N, 32] y) { g = MatMul(x, v)  h = MatMul(g, w)  y = Add(h, b) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("v", (32, 32)), ("w", (32, 32)), ("b", (32,))):
        net.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    path = tmp_path / "in.onnx"
    onnx.save(
        onnx.helper.make_model(net, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path
    )
    model = graph.load(path)
    monkeypatch.setattr(sys.modules["mlcompress.graph.save"], "INLINE_LIMIT", 1000)
    out = tmp_path / "out.onnx"
    assert graph.save(model, out) == [out, tmp_path / "out.onnx.data"]
    offsets = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}.get("offset")
        for tensor in onnx.load(out, load_external_data=False).graph.initializer
    }
    assert offsets == {"v": "0", "w": "4096", "b": None}  # at pages; small ones stay inside
    feed = {"x": rng.standard_normal((3, 32)).astype(np.float32)}
    np.testing.assert_array_equal(run(out, feed)[0], run(path, feed)[0])
    with pytest.raises(ModelError, match="do not fit one protobuf message"):
        graph.to_bytes(model)
    graph.save(graph.load(out), out)  # over the files that it is mapped from
    np.testing.assert_array_equal(run(out, feed)[0], run(path, feed)[0])


def test_a_path_that_cannot_be_written(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        graph.save(graph.load(write(MLP)), tmp_path / "no" / "folder.onnx")
