"""Models whose weights do not fit into one message: memory, files, and the whole command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlcompress import card, files, graph
from mlcompress.job import Job
from mlcompress.pipeline import run

LAYERS, WIDTH = 16, 512
LARGEST = 4 * WIDTH * WIDTH
"""Bytes of each weight."""
PEAK = """
import sys, tracemalloc
from pathlib import Path
from mlcompress import graph
from mlcompress.quantize.cast import store_weights
from mlcompress.graph.mapped import spilling
import mlcompress.graph.save, mlcompress.graph.load
sys.modules["mlcompress.graph.save"].INLINE_LIMIT = int(sys.argv[3])
model = graph.load(sys.argv[1])
warm = graph.copy(model)
store_weights(warm, "int8", list(warm.graph.initializers)[:1])
del warm
tracemalloc.start()
with spilling(None):
    store_weights(model, sys.argv[4], list(model.graph.initializers))
    graph.save(model, sys.argv[2])
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MatMul of 1 MiB each, in external data."""
    path, rng = tmp_path_factory.mktemp("large") / "large.onnx", np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"matmul{i}")
        for i in range(LAYERS)
    ]
    weights = [
        onnx.numpy_helper.from_array(rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32), f"w{i}")
        for i in range(LAYERS)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])
        for name in ("x0", f"x{LAYERS}")
    ]
    net = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    made = helper.make_model(net, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, path, save_as_external_data=True, location="weights.bin", convert_attribute=False)
    return path


@pytest.mark.parametrize("form", ["auto", "fp16"])
@pytest.mark.parametrize("limit", [2**31, 2**20])
def test_storing_holds_a_few_tensors_at_a_time(model: Path, tmp_path: Path, form: str, limit: int) -> None:
    """All weights are 16 times the largest, their int8 codes 4 times; both into one file and into two."""
    out = tmp_path / "out.onnx"
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(model), str(out), str(limit), form],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(done.stdout) < 3.5 * LARGEST
    assert out.with_name("out.onnx.data").exists() == (limit == 2**20)


def test_the_whole_command_with_two_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mlcompress.graph.save"], "INLINE_LIMIT", 2**20)
    out, recipe = tmp_path / "out.onnx", tmp_path / "r.yaml"
    recipe.write_text(
        "quantize: {mode: weight_only}\nmeasure: {repeats: 1}\ngate: {min_speedup: 0.001}\n", encoding="utf-8"
    )
    done = run(Job("quantize", model, out, str(recipe)))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out.onnx", "out.onnx.data", "out.onnx.json", "r.yaml"}
    written = done.artifact
    data = card.data_of(written)
    told = json.loads(card.path_for(written).read_text(encoding="utf-8"))
    assert told["output"]["data"] == {"sha256": files.sha256(data), "bytes": data.stat().st_size}
    assert told["output"]["bytes"] == written.stat().st_size + data.stat().st_size
    assert told["size"]["before"]["bytes"] / told["output"]["bytes"] == pytest.approx(4, rel=0.02)
    assert card.read(written)[1] is None
    monkeypatch.undo()
    x = np.random.default_rng(1).standard_normal((3, WIDTH), np.float32)
    before, after = (graph.to_bytes(graph.load(path)) for path in (model, written))
    wanted, found = (graph.session.session(source).run(None, {"x0": x})[0] for source in (before, after))
    # int8: each of 16 products adds noise of about 0.6 % of its output.
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)

    data.write_bytes(data.read_bytes()[:-1] + b"!")
    problem = card.read(written)[1]
    assert problem is not None
    assert data.name in problem


def test_other_weights_make_another_model_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the data is in the message, so that its own digest says which model it is."""
    monkeypatch.setattr(sys.modules["mlcompress.graph.save"], "INLINE_LIMIT", 2**20)
    first, second = tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"
    loaded = graph.load(model)
    for path in (first, second):
        path.parent.mkdir()
        graph.save(loaded, path)
        weight = loaded.graph.initializers["w3"]
        graph.initializers.set_numbers(weight, -np.asarray(graph.initializers.numbers(weight)))
    assert first.stat().st_size == second.stat().st_size
    assert files.sha256(first) != files.sha256(second)


def test_sizes_are_those_of_the_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = graph.load(model)
    [one] = graph.save(loaded, tmp_path / "one.onnx")
    assert graph.file_bytes(loaded) == one.stat().st_size == len(graph.to_bytes(loaded))
    assert onnx.load_from_string(one.read_bytes()).SerializeToString(deterministic=True) == one.read_bytes()
    monkeypatch.setattr(sys.modules["mlcompress.graph.save"], "INLINE_LIMIT", 2**20)
    two = graph.save(loaded, tmp_path / "two.onnx")
    # Each tensor names its file, by more letters than the estimate knows.
    more = LAYERS * len("two.onnx")
    assert graph.file_bytes(loaded) + more == sum(path.stat().st_size for path in two)
