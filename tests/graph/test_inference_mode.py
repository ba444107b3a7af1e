"""BatchNormalization and Dropout of files that were exported in training mode."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlcompress import graph
from mlcompress.errors import UnsupportedError
from tests.graph.onnx_text import ops, run

Write = Callable[..., Path]

NORM = """net (float[N, 3] x) => (float[N, 3] y)
    <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 0}, float[3] m = {1, 0, 2}, float[3] v = {1, 4, 9}> """


def test_batch_normalization_uses_running_statistics(write: Write) -> None:
    model = graph.load(
        write(NORM + "{ y, mm, vv = BatchNormalization<training_mode = 1, epsilon = 0.0>(x, s, b, m, v) }")
    )
    assert ops(model) == ["BatchNormalization"]
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    s, b, m, v = np.array([[1, 2, 3], [0, 1, 0], [1, 0, 2], [1, 4, 9]], np.float32)
    (y,) = run(graph.to_bytes(model), {"x": x})
    np.testing.assert_allclose(
        y, (x - m) / np.sqrt(v) * s + b, atol=1e-6
    )  # float32 rounding of numbers below 10


def test_old_batch_normalization_with_training_outputs(write: Write) -> None:
    """Before opset 14 the number of outputs says that it trains."""
    path = write(
        NORM + "{ y, mm, vv, sm, sv = BatchNormalization(x, s, b, m, v) }",
        '<ir_version: 7, opset_import: ["" : 9]>',
    )
    assert [len(node.outputs) for node in graph.load(path).graph] == [1]


def test_batch_statistics_that_are_read_are_refused(write: Write) -> None:
    text = NORM.replace("float[N, 3] y)", "float[N, 3] y, float[3] mm)")
    path = write(text + "{ [bn] y, mm, vv = BatchNormalization<training_mode = 1>(x, s, b, m, v) }")
    with pytest.raises(UnsupportedError, match="bn: batch statistics"):
        graph.load(path)


@pytest.mark.parametrize("opset", [11, 18])
def test_dropout_disappears(write: Write, opset: int) -> None:
    drop = "Dropout(h)" if opset < 12 else "Dropout(h, ratio, on)"
    path = write(
        f"""net (float[N, 2] x) => (float[N, 2] y) <float ratio = {{0.5}}, bool on = {{1}}> {{
            h = Relu(x)
            d = {drop}
            y = Neg(d)
        }}""",
        f'<ir_version: 7, opset_import: ["" : {opset}]>',
    )
    model = graph.load(path)
    assert ops(model) == ["Relu", "Neg"]
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(run(graph.to_bytes(model), {"x": x})[0], -x)


def test_a_dropout_mask_that_is_read_keeps_dropout_in_inference_mode(write: Write) -> None:
    path = write(
        """net (float[N] x) => (float[N] y, bool[N] m) <float ratio = {0.5}, bool on = {1}> {
            y, m = Dropout(x, ratio, on)
        }"""
    )
    y, mask = run(graph.to_bytes(graph.load(path)), {"x": np.ones(50, np.float32)})
    assert mask.all()
    assert (y == 1).all()


def test_a_mode_that_the_caller_chooses_is_refused(write: Write) -> None:
    path = write(
        """net (float[N, 2] x, bool on) => (float[N, 2] y) <float ratio = {0.5}> {
            [drop] y = Dropout(x, ratio, on)
        }""",
        '<ir_version: 7, opset_import: ["" : 18]>',
    )
    with pytest.raises(UnsupportedError, match="drop: whether Dropout drops is computed"):
        graph.load(path)
