"""Files that are no models, damaged or malformed: one clear line each, and nothing in them is run."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mlcompress import graph
from mlcompress.errors import ModelError, UnsupportedError, UserError
from mlcompress.graph import names
from tests.graph.onnx_text import MLP, refused

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


def test_every_truncation_is_refused_or_complete(write: Write) -> None:
    """A protobuf cut between two fields is a shorter protobuf: what is left of it must load as it says."""
    path = write(MLP)
    whole, loaded, told = path.read_bytes(), list[int](), list[str]()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        try:
            loaded.append(len(graph.load(path).graph))
        except UserError as error:
            told += error.lines
    assert set(loaded) <= {2}  # never a part of the net
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in told)


def test_messages_are_short_whatever_names_are_long(write: Write) -> None:
    path = write("net (float[N] x) => (float[N] y) { y = Add(x, lost) }")
    proto = onnx.load(path)
    proto.graph.node[0].input[1] = "long\n" * 100_000
    path.write_bytes(proto.SerializeToString())
    assert "nothing defines: long?long?" in refused(path)


def test_many_nodes_without_names_take_no_quadratic_time(tmp_path: Path) -> None:
    """Each gets the next free number. (At 20,000 nodes, trying all numbers takes half a minute.)"""
    made = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("v0", "v3000"))
    path = tmp_path / "chain.onnx"
    net = helper.make_graph(made, "net", [x], [y])
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    proto = onnx.load(path)
    tried = Counting()
    names.free("Relu", tried, last := {})
    for _ in range(1, 3000):
        names.free("Relu", tried, last)
    assert tried.looked_up < 3 * 3000
    names.name_nodes(proto)
    assert [node.name for node in proto.graph.node[:3]] == ["Relu", "Relu_1", "Relu_2"]


class Counting(set):
    """A set that counts how often it is asked."""

    looked_up = 0

    def __contains__(self, name: object) -> bool:
        self.looked_up += 1
        return super().__contains__(name)


def test_names_that_are_no_utf8(write: Write) -> None:
    path = write(MLP)
    path.write_bytes(path.read_bytes().replace(b"second", b"sec\xffnd"))
    assert "not valid UTF-8" in refused(path)


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
