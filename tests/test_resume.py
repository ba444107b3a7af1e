"""A run that is killed leaves nothing half-written, and the same command finishes it with the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlcompress import card
from tests.conftest import ROOT, Program

RECIPE = """
data: {train: {path: train.npz, label: y}, evaluate: {path: val.npz}}
distill: {student: {width: 0.5}}
train: {threads: 1, epochs: 8, batch_size: 16, optimizer: {name: adam, lr: 0.002}}
measure: {repeats: 1}
"""


DISTILL = ("distill", "teacher.onnx", "-r", "r.yaml", "-o")
STATE = Path(".out.onnx.partial/state")


def kill_once() -> None:
    """Start distilling to out.onnx, and `kill -9` it as soon as it has kept its first epoch."""
    path = STATE / "distill.safetensors"
    command = [sys.executable, "-m", "mlcompress", *DISTILL, "out.onnx"]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while not path.exists():
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail("ended before it could be killed")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_training_goes_on_and_ends_the_same(inside: Path, program: Program) -> None:
    Path("r.yaml").write_text(RECIPE)
    assert program(*DISTILL, "whole.onnx").returncode == 0
    Path("out.onnx").write_bytes(b"what was there")

    kill_once()

    assert Path("out.onnx").read_bytes() == b"what was there"
    assert not Path("out.onnx.json").exists()
    done = program(*DISTILL, "out.onnx", "--json")
    assert done.returncode == 0
    assert Path("out.onnx").read_bytes() == Path("whole.onnx").read_bytes()
    assert card.read(Path("out.onnx"))[1] is None
    assert not STATE.parent.exists()


def test_state_of_another_recipe_is_not_gone_on_from(inside: Path, program: Program) -> None:
    Path("r.yaml").write_text(RECIPE)
    kill_once()
    changed = ("--set", "train.optimizer.lr=0.001", "--set", "train.epochs=2")
    assert program(*DISTILL, "out.onnx", *changed).returncode == 0
    assert program(*DISTILL, "whole.onnx", *changed).returncode == 0
    assert Path("out.onnx").read_bytes() == Path("whole.onnx").read_bytes()
