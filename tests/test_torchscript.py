"""`-o x.ts`: what prune and quantize write runs with torch alone, and is what they write as ONNX."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from mlcompress import card, files, pipeline
from mlcompress.errors import RecipeError, UnsupportedError, UsageError
from mlcompress.exits import Exit
from mlcompress.job import Job
from tests import task
from tests.conftest import ROOT

PRUNE = "prune: {ratio: 0.5}\nmeasure: {repeats: 1}\n"
QUANTIZE = """
quantize: {mode: static, placement: all}
measure: {repeats: 1}
data:
  calibration: {path: train.npz, inputs: {image: image}, limit: 64}
  evaluate: {path: val.npz, inputs: {image: image}, label: y}
"""
BATCHES = (1, 5)
"""5 is no size at which the writer looks."""

ALONE = """
import sys, torch
model, given, found = sys.argv[1:]
model = torch.jit.load(model)
small, large = torch.load(given, weights_only=True)
torch.save([model(small), model(image=large)], found)
assert not [name for name in sys.modules if name.startswith(("mlcompress", "onnx"))]
"""


WITHOUT_TORCH = """
import sys
from mlcompress.cli.app import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def run(stage: str, output: str, *overrides: str) -> pipeline.Outcome:
    return pipeline.run(Job(stage, Path("teacher.onnx"), Path(output), f"{stage}.yaml", overrides))


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prune.ts and quantize.ts from the shell, prune.onnx and quantize.onnx of the same recipes."""
    folder = tmp_path_factory.mktemp("torchscript")
    onnx.save(task.solved(), folder / "teacher.onnx")
    task.save_samples(folder / "train.npz", 200, seed=2)
    task.save_samples(folder / "val.npz", 200, seed=3)
    for stage, recipe in (("prune", PRUNE), ("quantize", QUANTIZE)):
        (folder / f"{stage}.yaml").write_text(recipe)
        shell = command(
            folder, "-m", "mlcompress", stage, "teacher.onnx", "-r", f"{stage}.yaml", "-o", f"{stage}.ts"
        )
        assert shell.returncode == 0, shell.stderr
        (folder / f"{stage}.said").write_text(shell.stderr)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("prune", "prune.onnx").exit == Exit.DONE
    # All layers of so small a net as integers may be slower, which an .onnx file must not be.
    shell = command(
        folder, "-c", WITHOUT_TORCH, "quantize", "teacher.onnx", "-r", "quantize.yaml", "-o", "quantize.onnx"
    )
    assert shell.returncode in (Exit.DONE, Exit.GATE_MISSED), shell.stderr
    (folder / "torch").write_text(shell.stdout)
    return folder


@pytest.fixture
def inside_made(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def outputs(folder: Path, stage: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(TorchScript in a process of its own, stock onnxruntime on the ONNX file, onnxruntime on the teacher)"""
    pictures = [task.samples(batch, seed=20 + batch)[0] for batch in BATCHES]
    torch.save([torch.from_numpy(batch) for batch in pictures], folder / "given.pt")
    alone = command(folder, "-P", "-W", "ignore", "-c", ALONE, f"{stage}.ts", "given.pt", "found.pt")
    assert alone.returncode == 0, alone.stderr
    found = torch.load(folder / "found.pt", weights_only=True)
    twin = folder / f"{stage}.onnx"
    twin = twin if twin.exists() else twin.with_name(twin.name + ".rejected")
    stock, teacher = (
        ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        for path in (twin, folder / "teacher.onnx")
    )
    return [
        (one.numpy(), stock.run(None, {"image": batch})[0], teacher.run(None, {"image": batch})[0])
        for one, batch in zip(found, pictures, strict=True)
    ]


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_a_pruned_file_runs_with_torch_alone_at_two_batch_sizes(made):
    for found, expected, teacher in outputs(made, "prune"):
        assert off(found, expected) < 1e-5
        assert off(found, teacher) > 0.05  # half of the channels are gone


def test_an_int8_file_runs_with_torch_alone_at_two_batch_sizes(made):
    for found, expected, teacher in outputs(made, "quantize"):
        assert off(found, expected) < 0.02
        assert off(found, teacher) > 1e-4  # activations are rounded


def test_int8_weights_stay_integers_on_disk(made):
    with zipfile.ZipFile(made / "quantize.ts") as archive:
        tensors = [entry.file_size for entry in archive.infolist() if "/data/" in entry.filename]
    assert max(tensors) == 16 * 32 * 9  # the largest Conv, one byte a weight


@pytest.mark.parametrize("stage", ["prune", "quantize"])
def test_the_card_is_of_the_ts_file_and_says_what_is_the_twins(made, stage):
    artifact = made / f"{stage}.ts"
    facts, problem = card.read(artifact)
    assert problem is None
    assert facts["output"]["format"] == "torchscript"
    assert facts["output"]["bytes"] == facts["size"]["after"]["bytes"] == artifact.stat().st_size
    assert facts["size"]["before"]["bytes"] == (made / "teacher.onnx").stat().st_size
    assert facts["metric"] is None or facts["metric"]["of"] == "onnx twin"
    assert {row["of"] for row in facts["latency"]} == {facts["memory"]["after"]["of"]} == {"onnx twin"}
    assert "of" not in facts["memory"]["before"]
    assert facts["gate"]["checked"] == []  # quantize: not even `not_slower`
    assert "ms for its onnx twin (" in (made / f"{stage}.said").read_text()
    assert not list(made.glob(".*.partial"))


def test_an_onnx_card_marks_nothing(made):
    facts = json.loads((made / "prune.onnx.json").read_text())
    assert facts["output"]["format"] == "onnx"
    assert not [row for row in facts["latency"] if "of" in row]


def test_no_path_of_this_machine_is_in_the_file(made):
    with zipfile.ZipFile(made / "prune.ts") as archive:
        names = archive.namelist()
        content = b"".join(archive.read(name) for name in names)
    assert not [name for name in names if name.endswith("debug_pkl")]
    assert str(ROOT).encode() not in content
    assert str(made).encode() not in content


def test_weights_have_the_names_of_the_initializers(made):
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        module = torch.jit.load(made / "prune.ts")
    weights = {tensor.name for tensor in onnx.load(made / "prune.onnx").graph.initializer}
    assert set(module.state_dict()) == weights
    assert not any(tensor.requires_grad for tensor in module.parameters())


@pytest.mark.parametrize("limit", ["min_speedup", "max_latency_ms"])
def test_a_limit_on_latency_is_refused_before_any_work(inside_made, limit):
    with pytest.raises(RecipeError, match=rf"gate\.{limit}: not for a \.ts output: .*name the output \.onnx"):
        run("quantize", "limit.ts", f"gate.{limit}=1.0", "data.calibration.limit=1")
    assert not list(inside_made.glob("limit.ts*"))


def test_what_misses_a_limit_is_kept_as_rejected_with_the_same_bytes(inside_made):
    """The same whatever the name is, and in this process as in that of the shell."""
    Path("old.ts").write_bytes(b"old")
    outcome = run("prune", "old.ts", "gate.max_bytes=100")
    assert outcome.exit == Exit.GATE_MISSED
    assert Path("old.ts").read_bytes() == b"old"
    assert files.sha256(Path("old.ts.rejected")) == files.sha256(Path("prune.ts"))
    assert card.read(Path("old.ts.rejected"))[1] is None
    assert outcome.card["gate"]["missed"] == ["max_bytes"]
    assert outcome.card["gate"]["checked"][0]["value"] == Path("prune.ts").stat().st_size


IF = """<ir_version: 8, opset_import: ["" : 18]> net (float[N, 4] x) => (float[N, 4] y) {
  zero = Constant <value = float {0.0}> ()
  sum = ReduceSum <keepdims = 0> (x)
  positive = Greater (sum, zero)
  y = If (positive) <then_branch = a () => (float[N, 4] p) {p = Relu (x)}, else_branch = b () => (float[N, 4] q) {q = Neg (x)}>
}"""


def test_control_flow_is_refused_by_name_before_any_work(inside_made):
    onnx.save(onnx.parser.parse_model(IF), "if.onnx")
    job = Job("prune", Path("if.onnx"), Path("if.ts"), "prune.yaml")
    for attempt in (pipeline.run, pipeline.dry_run):
        with pytest.raises(
            UnsupportedError, match=r"cannot write TorchScript: op If \(nodes .*name the output \.onnx"
        ):
            attempt(job)
    assert not list(inside_made.glob("if.ts*"))


def test_other_suffixes_are_refused(inside_made):
    with pytest.raises(UsageError, match=r"ONNX or TorchScript is written; name it x\.onnx or x\.ts"):
        run("prune", "x.pt")


def test_onnx_is_written_without_torch(made):
    assert (made / "torch").read_text().split() == ["False"]
