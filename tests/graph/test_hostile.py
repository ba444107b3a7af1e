"""Files that are no models, damaged or malformed: one clear line each, and nothing in them is run."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlcompress import graph
from mlcompress.errors import ModelError, UnsupportedError, UserError
from tests.graph.onnx_text import MLP, initializer_of, numbers, refused

Write = Callable[..., Path]


def zip_of(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return packed.getvalue()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


SAFETENSORS = struct.pack("<Q", 2) + b"{}"
OTHERS = {
    "torchscript": (zip_of("net/code/__torch__.py", "net/constants.pkl", "net/data.pkl"), "TorchScript"),
    "torch": (zip_of("net/data.pkl", "net/data/0"), "torch checkpoint"),
    "npz": (zip_of("x.npy"), "numpy archive"),
    "zip": (zip_of("model.onnx"), "zip archive"),
    "npy": (b"\x93NUMPY\x01\x00", "numpy array"),
    "safetensors": (SAFETENSORS, "safetensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "tflite": (b"\x1c\x00\x00\x00TFL3rest", "TensorFlow Lite"),
    "ort": (b"\x1c\x00\x00\x00ORTMrest", "ORT format"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "GGUF"),
    "text": (b'ir_version: 8\ngraph { name: "g" }\n', "text"),
    "json": (b'{"ir_version": 8}', "text"),
    "html": (b"<!DOCTYPE html>\n<title>404</title>", "text"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_format_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    content, said = OTHERS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert said in refused(path, UnsupportedError)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "model.onnx"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
        assert "can run code" in refused(path, UnsupportedError)
    assert not mark.exists()


def test_missing_empty_folder_and_garbage(tmp_path: Path, write: Write) -> None:
    assert "no such file" in refused(tmp_path / "none.onnx")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    assert "is empty" in refused(empty)
    assert "is a folder" in refused(tmp_path)
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(bytes(range(255, 0, -1)) * 3)
    assert "not a complete ONNX protobuf" in refused(garbage)
    tiny = tmp_path / "tiny.onnx"
    tiny.write_bytes(b"\x08\x07")  # a protobuf that only holds an IR version
    assert "is not an ONNX model" in refused(tiny)
    whole = write(MLP)
    whole.write_bytes(whole.read_bytes()[:-20])
    assert "truncated" in refused(whole)


def test_unreadable_file(tmp_path: Path, write: Write) -> None:
    loop = tmp_path / "loop.onnx"
    loop.symlink_to(loop)
    assert "cannot be read" in refused(loop)


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


def test_nan_and_infinite_weights_are_numbers(write: Write) -> None:
    path = write(MLP)
    initializer_of(path, lambda t: t.float_data.__setitem__(slice(0, 2), [float("nan"), float("inf")]))
    np.testing.assert_array_equal(
        numbers(graph.load(path), "w"), np.array([[np.nan, np.inf], [3, 4]], np.float32)
    )


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


def test_names_that_are_no_utf8(write: Write) -> None:
    path = write(MLP)
    path.write_bytes(path.read_bytes().replace(b"second", b"sec\xffnd"))
    assert "not valid UTF-8" in refused(path)


def test_sparse_indices_outside_the_shape(tmp_path: Path) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 9])
    net = onnx.parser.parse_graph("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul(x, w) }")
    net.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    path = tmp_path / "sparse.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    assert "indices outside its shape" in refused(path)


def test_mutated_files_give_a_model_or_a_user_error(write: Write) -> None:
    """Any other exception would end in a traceback. Seeded: the same 400 files each time."""
    draw = random.Random(0)
    path = write(MLP)
    whole, loaded = path.read_bytes(), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 4])):
            place = draw.randrange(len(data))
            data[place : place + draw.randrange(2)] = draw.randbytes(draw.randrange(3))
        path.write_bytes(data)
        try:
            graph.load(path)
            loaded += 1
        except UserError:
            pass
    assert 40 < loaded < 360  # both ends are reached


def test_all_problems_are_told_at_once(write: Write) -> None:
    path = write("net (float[N] x) => (float[N] y) { h = Add(x, lost)  y = Relu(h)  y = Neg(h) }")
    with pytest.raises(ModelError) as caught:
        graph.load(path)
    assert len(caught.value.lines) == 2
