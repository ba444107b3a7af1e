"""What tests share: the small task on disk, and the program in a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests import task

ROOT = Path(__file__).resolve().parents[1]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def _task_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    onnx.save(task.solved(), folder / "teacher.onnx")
    task.save_samples(folder / "train.npz", 600, seed=2)
    task.save_samples(folder / "val.npz", 300, seed=3)
    return folder


@pytest.fixture
def inside(_task_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test: teacher.onnx, train.npz and val.npz of the small task."""
    for path in _task_files.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`mlcompress ARGUMENTS` as a shell runs it, in the test's folder, on one thread."""

    def run(*arguments: object, cwd: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mlcompress", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)

    return run
