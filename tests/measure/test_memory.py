import os
from pathlib import Path

import numpy as np
import pytest

from mlcompress.errors import ModelError, UserError
from mlcompress.measure import memory
from tests.measure.models import chain, linear, parse

X = {"x": np.ones((1, 2048), np.float32)}


def test_a_large_weight_adds_its_size_to_the_peak() -> None:
    # 64 MiB of weights. onnxruntime holds the file, the parsed message and its own copy for a moment, so the
    # peak is one to four times the weights; a small model adds the same machinery
    # without them.
    weights = np.zeros((2048, 8192), np.float32)
    large = memory.peak(linear(weights), X)
    small = memory.peak(linear(weights[:, :1]), X)
    assert weights.nbytes * 0.9 < large.peak_bytes - small.peak_bytes < weights.nbytes * 4
    assert 0 < small.load_bytes <= small.peak_bytes < weights.nbytes / 2
    assert large.load_ms > 0


def test_memory_of_this_process_is_not_counted() -> None:
    # Pages of the parent must not show in the child's peak: they do in ru_maxrss, which survives exec.
    ballast = np.ones(200 << 20, np.uint8)
    found = memory.peak(chain(1), {"h0": np.ones((1, 8), np.float32)})
    assert ballast[0] == 1
    assert found.peak_bytes < 100 << 20
    assert memory._peak_bytes() > ballast.nbytes


def test_a_file_is_measured_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(chain(1))
    monkeypatch.chdir(tmp_path)
    assert memory.peak(Path("m.onnx"), {"h0": np.ones((1, 8), np.float32)}).peak_bytes > 0


def test_errors_of_the_child_are_errors_here(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"broken\.onnx: onnxruntime cannot load it"):
        memory.peak(broken, {})
    with pytest.raises(UserError, match="cannot be run on the inputs given"):
        memory.peak(chain(1), {"h0": np.ones((1, 9), np.float32)})


def test_a_model_that_takes_too_long() -> None:
    endless = parse(
        """g (float[2] x) => (float[2] y) <int64 trip = {1000000000}, bool go = {1}> {
            y = Loop (trip, go, x) <body = b (int64 i, bool c, float[2] s) => (bool c_out, float[2] s_out) {
                c_out = Identity (c)
                s_out = Relu (s)
            }>
        }"""
    )
    with pytest.raises(ModelError, match="did not load and run within 3 s"):
        memory.peak(endless, {"x": np.ones(2, np.float32)}, timeout=3)


def test_only_variables_that_a_runtime_needs_reach_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    # A broken PYTHONSTARTUP or PYTHONHOME of the user would end the child before it starts.
    monkeypatch.setenv("PYTHONHOME", os.fspath(Path("/nonexistent")))
    assert memory.peak(chain(1), {"h0": np.ones((1, 8), np.float32)}).load_ms > 0
