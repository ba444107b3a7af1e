"""The written file against what was promised: signature, loading, running at two batch sizes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlcompress import graph
from mlcompress.errors import ModelError
from tests.graph.onnx_text import MLP, initializer_of

Write = Callable[..., Path]


def lines(path: Path, expected: graph.Signature, **options: object) -> tuple[str, ...]:
    with pytest.raises(ModelError) as caught:
        graph.verify(path, expected, **options)
    assert all(line.startswith(f"{path}: ") for line in caught.value.lines)
    return caught.value.lines


def test_a_sound_file_passes_silently(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(MLP)
    graph.verify(path, graph.signature(graph.load(path)))
    assert capsys.readouterr() == ("", "")


def test_another_signature_is_told(write: Write) -> None:
    path = write(MLP)
    found = graph.signature(graph.load(path))
    (x,), (y,) = found.inputs, found.outputs
    wrong = (
        (graph.Signature((replace(x, name="z"),), (y,)), "inputs are x instead of z"),
        (
            graph.Signature((replace(x, shape=(1, 2)),), (y,)),
            "input x is float32 ['N', 2] instead of float32 [1, 2]",
        ),
        (graph.Signature((x,), (replace(y, dtype=np.dtype(np.float16)),)), "instead of float16"),
        (graph.Signature((x,), (y, y)), "outputs are y instead of y, y"),
    )
    for expected, said in wrong:
        assert any(said in line for line in lines(path, expected))


def test_a_batch_that_was_frozen_is_found(write: Write) -> None:
    """It runs at batch 1 and not at another: what a traced Reshape does."""
    frozen = write("net (float[N, 2] x) => (float[N, 2] y) <int64[2] s = {1, 2}> { y = Reshape(x, s) }")
    expected = graph.signature(graph.load(frozen))
    (line,) = lines(frozen, expected)
    assert "(3, 2)" in line
    graph.verify(frozen, expected, shapes={"x": (1, 2)})  # negative control: batch 1 itself is sound


def test_axes_that_need_a_length_are_found_or_asked_for(write: Write) -> None:
    path = write(
        "net (float[N, T] x) => (float[N, T] y) <float[64] b = {"
        + ", ".join(["1"] * 64)
        + "}> { y = Add(x, b) }"
    )
    graph.verify(path, graph.signature(graph.load(path)))
    odd = write(
        "net (float[N, T] x) => (float[N, T] y) <float[7] b = {1, 1, 1, 1, 1, 1, 1}> { y = Add(x, b) }"
    )
    (line,) = lines(odd, graph.signature(graph.load(odd)))
    assert "give it in measure.shapes" in line
    graph.verify(odd, graph.signature(graph.load(odd)), shapes={"x": (2, 7)})


def test_damage_after_writing_is_found(write: Write) -> None:
    path = write(MLP)
    expected = graph.signature(graph.load(path))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"MatMul", b"MatMux"))
    assert "onnxruntime cannot load it" in lines(path, expected)[0]
    path.write_bytes(whole[:-9])
    assert "not a complete ONNX protobuf" in lines(path, expected)[0]


def test_outputs_that_are_not_finite_are_a_warning(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(MLP)
    initializer_of(path, lambda tensor: tensor.float_data.__setitem__(0, float("inf")))
    graph.verify(path, graph.signature(graph.load(path)))
    assert "output y: not finite" in capsys.readouterr().err


def test_what_only_the_checker_minds_is_a_warning(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(MLP)
    proto = onnx.load(path)
    proto.graph.name = ""  # onnxruntime does not care
    path.write_bytes(proto.SerializeToString())
    graph.verify(path, graph.signature(graph.load(path)))
    assert "onnx.checker objects" in capsys.readouterr().err
