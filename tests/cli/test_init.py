"""`mlcompress init` gives a project that is ready to be adapted."""

import subprocess
from pathlib import Path

import pytest

from mlcompress.recipe.load import load
from mlcompress.stages import find
from tests.conftest import Program


@pytest.fixture
def project(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert program("init", "p").returncode == 0
    monkeypatch.chdir(tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize("stage", ["distill", "prune", "quantize", "report"])
def test_every_recipe_is_valid_for_its_stage(project: Path, stage: str) -> None:
    recipe = load(f"{stage}.yaml", find(stage).schema)
    assert recipe.data.train is not None
    assert recipe.gate.max_drop is not None


def test_the_makefile_chains_the_stages(project: Path) -> None:
    (project / "teacher.onnx").touch()
    done = subprocess.run(["make", "-n"], cwd=project, capture_output=True, text=True, check=True)
    commands = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("mlcompress ")]
    assert commands == ["distill", "prune", "quantize", "report"]


def test_nothing_is_overwritten(project: Path, program: Program) -> None:
    (project / "prune.yaml").write_text("mine")
    done = program("init", "p")
    assert done.returncode == 2
    assert "p/prune.yaml: is there already; choose another folder or remove it" in done.stderr.splitlines()
    assert (project / "prune.yaml").read_text() == "mine"
