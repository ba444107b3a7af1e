"""External data: inside the model's folder only, complete, and safe from being written over."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from mlcompress import graph
from tests.graph.onnx_text import MLP, initializer_of, numbers, refused

Write = Callable[..., Path]
EXTERNAL_NAME = "weights.bin"


def external(write: Write, location: str = EXTERNAL_NAME, **entries: str) -> Path:
    """The MLP with its weight in `location`, and the 16 bytes of it in weights.bin beside the model."""
    path = write(MLP)
    (path.parent / EXTERNAL_NAME).write_bytes(np.array([1, 2, 3, 4], np.float32).tobytes())

    def move(tensor: TensorProto) -> None:
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    initializer_of(path, move)
    return path


def test_external_data_inside_the_folder_is_read(write: Write) -> None:
    np.testing.assert_array_equal(numbers(graph.load(external(write)), "w"), [[1, 2], [3, 4]])


def test_unaligned_and_packed_data_are_read(write: Write) -> None:
    path = external(write, offset="3")
    data = np.array([1, 2, 3, 4], np.float32).tobytes()
    (path.parent / EXTERNAL_NAME).write_bytes(b"abc" + data)
    found = numbers(graph.load(path), "w")
    np.testing.assert_array_equal(found, [[1, 2], [3, 4]])
    assert found.flags.aligned  # torch needs it
    path = write(
        """net (float[N, 3] x) => (float[N, 1] y) <int4[3, 1] w = {-8, 7, 1}> {
            f = Cast<to = 1>(w)
            y = MatMul(x, f)
        }""",
        '<ir_version: 10, opset_import: ["" : 21]>',
    )
    (path.parent / EXTERNAL_NAME).write_bytes(
        bytes([0x78, 0x01])
    )  # two values a byte, the first in the low bits

    def move(tensor: TensorProto) -> None:
        tensor.ClearField("int32_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=EXTERNAL_NAME)

    initializer_of(path, move)
    np.testing.assert_array_equal(numbers(graph.load(path), "f"), [[-8], [7], [1]])


def test_a_loaded_model_outlives_its_data_file(write: Write, tmp_path: Path) -> None:
    """Replaced as the pipeline does it (rename), and unlinked."""
    path = external(write)
    model = graph.load(path)
    other = tmp_path / "other"
    other.write_bytes(bytes(16))
    other.replace(path.parent / EXTERNAL_NAME)
    np.testing.assert_array_equal(numbers(model, "w"), [[1, 2], [3, 4]])
    (path.parent / EXTERNAL_NAME).unlink()
    graph.save(model, path)  # the very path it came from; everything is inside now
    np.testing.assert_array_equal(numbers(graph.load(path), "w"), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("location", "entries", "said"),
    [
        ("../weights.bin", {}, "outside the model's folder"),
        ("a/../../weights.bin", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "outside the model's folder"),
        ("C:\\weights.bin", {}, "outside the model's folder"),
        ("..\\weights.bin", {}, "outside the model's folder"),
        ("", {}, "without a location"),
        ("lost.bin", {}, "data file lost.bin is missing"),
        (".", {}, "is missing"),
        (EXTERNAL_NAME, {"offset": "4"}, "too short: 16 bytes, 20 needed"),
        (EXTERNAL_NAME, {"offset": "-4"}, "offset -4"),
        (EXTERNAL_NAME, {"length": "8"}, "length 8"),
        (EXTERNAL_NAME, {"offset": "x"}, "invalid literal"),
        ("weights\0.bin", {}, "cannot be read"),
    ],
)
def test_external_data_elsewhere_or_damaged(
    write: Write, location: str, entries: dict[str, str], said: str
) -> None:
    line = refused(external(write, location, **entries))
    assert "tensor w: " in line
    assert said in line


def test_links_may_not_leave_the_folder(write: Write, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.bin"
    outside.write_bytes(bytes(16))
    path = external(write, "link.bin")
    os.symlink(outside, path.parent / "link.bin")
    assert "leaves the model's folder" in refused(path)
    (path.parent / "link.bin").unlink()
    os.symlink(
        path.parent / EXTERNAL_NAME, path.parent / "link.bin"
    )  # negative control: a link that stays inside
    graph.load(path)
    (path.parent / "folder").symlink_to(outside.parent)
    assert "leaves the model's folder" in refused(external(write, "folder/secret.bin"))
