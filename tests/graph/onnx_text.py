"""What the tests of loading and cleaning share: the oracle is onnxruntime on the file as it was written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.errors import ModelError, UserError

MLP = """
    net (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
        [first] h = MatMul(x, w)
        [second] y = Relu(h)
    }
"""


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph)]


def run(source: Path | bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    source = source if isinstance(source, bytes) else str(source)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feed)


def cleaned(path: Path, *shapes: tuple[int, ...]) -> ir.Model:
    """The loaded model, after a check that it computes bit for bit what the file does."""
    model = graph.load(path)
    rng = np.random.default_rng(0)
    names = [value.name for value in model.graph.inputs]
    feed = {str(n): rng.standard_normal(s).astype(np.float32) for n, s in zip(names, shapes, strict=True)}
    for before, after in zip(run(path, feed), run(graph.to_bytes(model), feed), strict=True):
        np.testing.assert_array_equal(after, before)
    return model


def numbers(model: ir.Model, name: str) -> np.ndarray:
    """The array of an initializer."""
    return model.graph.initializers[name].const_value.numpy()


def refused(path: Path, kind: type[UserError] = ModelError) -> str:
    """The one line that loading `path` gives."""
    with pytest.raises(kind) as caught:
        graph.load(path)
    assert len(caught.value.lines) == 1
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) - len(str(path)) < 420
    return line


def initializer_of(path: Path, change: Callable[[onnx.TensorProto], None]) -> None:
    """Apply `change` to the first initializer of a file."""
    proto = onnx.load(path)
    change(proto.graph.initializer[0])
    path.write_bytes(proto.SerializeToString())
