"""Many checkpoints in one command: a broken one stops no other, and the exit status says what happened."""

import json
from pathlib import Path

import onnx

from tests import task
from tests.conftest import Program

RECIPE = "prune: {ratio: 0.5}\nmeasure: {repeats: 1}\n"


def checkpoints(folder: Path) -> list[Path]:
    """Two good models and a truncated one between them."""
    paths = []
    for seed in range(3):
        path = folder / f"m{seed}.onnx"
        onnx.save(task.net(seed=seed), path)
        paths.append(path)
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    (folder / "prune.yaml").write_text(RECIPE)
    return paths


def test_a_broken_checkpoint_stops_no_other(tmp_path: Path, program: Program) -> None:
    checkpoints(tmp_path)
    done = program(
        "prune",
        "m0.onnx",
        "m1.onnx",
        "m2.onnx",
        "-r",
        "prune.yaml",
        "--output-dir",
        "out",
        "--jobs",
        2,
        "--json",
    )
    assert done.returncode == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "m0.onnx",
        "m0.onnx.json",
        "m2.onnx",
        "m2.onnx.json",
    ]
    assert len([line for line in done.stderr.splitlines() if line.startswith("m1.onnx: ")]) == 1
    assert done.stderr.splitlines()[-1] == "3 models: 2 done, 0 missed a gate, 1 could not run (m1.onnx)"
    rows = json.loads(done.stdout)
    assert [row["exit"] for row in rows] == [0, 2, 0]
    assert rows[0]["card"]["parent"]["path"] == "m0.onnx"
    assert rows[1]["card"] is None


def test_a_missed_gate_in_a_batch_is_exit_1(tmp_path: Path, program: Program) -> None:
    onnx.save(task.net(), tmp_path / "m.onnx")
    done = program("prune", "m.onnx", "--set", "prune.ratio=0.5", "--set", "gate.max_size_ratio=0.01",
                   "--set", "measure.repeats=1", "--output-dir", "out")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "1 models: 0 done, 1 missed a gate, 0 could not run"
    assert not (tmp_path / "out" / "m.onnx").exists()
    assert (tmp_path / "out" / "m.onnx.rejected").exists()


def test_two_models_of_one_name_are_refused_before_work(tmp_path: Path, program: Program) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        onnx.save(task.net(), tmp_path / folder / "m.onnx")
    done = program("prune", "a/m.onnx", "b/m.onnx", "--set", "prune.ratio=0.5", "--output-dir", "out")
    assert done.returncode == 2
    assert done.stderr == "out/m.onnx: two models of the batch would write it; run them apart\n"
    assert not (tmp_path / "out").exists()


def test_a_batch_does_not_overwrite_its_inputs(tmp_path: Path, program: Program) -> None:
    onnx.save(task.net(), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    done = program("prune", "m.onnx", "--set", "prune.ratio=0.5", "--output-dir", ".")
    assert done.returncode == 2
    assert "would be overwritten by its own result" in done.stderr
    assert (tmp_path / "m.onnx").read_bytes() == before
