"""Two gloo processes train what one does; the first alone measures, writes and prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from mlcompress import card, checkpoint, pipeline, prepare, processes
from mlcompress.cli.app import _status
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.run import run
from mlcompress.errors import UserError
from mlcompress.exits import Exit
from mlcompress.job import Job
from mlcompress.recipe.train import TrainSection
from mlcompress.train.device import check_shares
from tests import task
from tests.conftest import ROOT

RECIPE = {
    "data": {"train": {"path": "train.npz", "label": "y"}, "evaluate": {"path": "val.npz"}},
    "train": {"threads": 1, "epochs": 2, "batch_size": 60, "optimizer": {"name": "sgd", "lr": 0.01}},
    "measure": {"repeats": 1},
}
CLOSE = 1e-4
"""Sums of float32 in another order, over 18 steps; seen: 1e-5. A batch of half the size: more than 0.01."""


def alone(batch_size: int) -> dict[str, np.ndarray]:
    """The student of one process."""
    made = DistillRecipe.model_validate({**RECIPE, "train": {**RECIPE["train"], "batch_size": batch_size}})
    job = Job("distill", Path("teacher.onnx"), Path("o.onnx"), teachers=(Path("second.onnx"),))
    model = checkpoint.load(job.model)
    student, _ = run(model, made, prepare.context(job, made, model))
    return floats(ir.to_proto(student))


def floats(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_two_processes_train_as_one_does(inside: Path) -> None:
    onnx.save(task.solved((24, 32), seed=5), "second.onnx")
    Path("r.yaml").write_text(json.dumps(RECIPE))
    before = {path.name for path in inside.iterdir()}
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "mlcompress")
    command = ("distill", "teacher.onnx", "-t", "second.onnx", "-r", "r.yaml", "-o", "out.onnx", "--json")
    ran = subprocess.run(
        [sys.executable, *launch, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["stage"] == "distill"  # one card, of the first process
    assert ran.stderr.count("out.onnx: student with") == 1
    assert {path.name for path in inside.iterdir()} - before == {"out.onnx", "out.onnx.json"}
    assert card.read(Path("out.onnx"))[1] is None
    together, one = floats(onnx.load("out.onnx")), alone(60)
    assert furthest(together, one) < CLOSE
    assert furthest(alone(30), one) > 100 * CLOSE


def test_accelerate_starts_them_too(inside: Path) -> None:
    """Both see that they are two: an odd batch is refused. Its result is that of torchrun, which it calls."""
    recipe = {**RECIPE, "train": {**RECIPE["train"], "batch_size": 61}}
    Path("r.yaml").write_text(json.dumps(recipe))
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "mlcompress")
    ran = subprocess.run(
        [sys.executable, *launch, "distill", "teacher.onnx", "-r", "r.yaml", "-o", "out.onnx"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode != 0
    assert "61 samples cannot be shared by 2 processes" in ran.stderr
    assert not Path("out.onnx").exists()


def test_a_launcher_that_starts_one_process_of_several_is_refused(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `accelerate launch --cpu --num_processes 2` sets without mpirun."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    Path("r.yaml").write_text(json.dumps(RECIPE))
    command = ["distill", "teacher.onnx", "-r", "r.yaml", "-o", "out.onnx", "-q"]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert _status(command) == Exit.CANNOT_RUN
    assert "`accelerate launch --cpu` starts one process" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")  # always set
    assert not processes.is_short()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert processes.is_short()
    monkeypatch.setenv("MASTER_ADDR", "node17")  # of a cluster
    assert not processes.is_short()
    monkeypatch.delenv("MASTER_ADDR")  # one was asked for
    assert not processes.is_short()


def test_what_several_processes_cannot_do_is_said(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"train.batch_size: 128 samples cannot be shared by 3 processes"):
        check_shares(TrainSection(), 1000)
    with pytest.raises(UserError, match=r"train.batch_size: 129 is more than the 100 samples"):
        check_shares(TrainSection(batch_size=129), 100)
    check_shares(TrainSection(batch_size=99), 99)
    with pytest.raises(UserError, match="prune: several processes do `distill` only"):
        pipeline.run(Job("prune", Path("teacher.onnx"), Path("o.onnx")))
    assert _status(["distill", "teacher.onnx", "--output-dir", "out", "-q"]) == Exit.CANNOT_RUN
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_shares(TrainSection(), 10)
