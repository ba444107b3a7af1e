"""Measuring real files together; nothing here depends on how fast a machine is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mlcompress.report.collect import collect
from mlcompress.report.measured import timed_files
from mlcompress.report.recipe import ReportRecipe
from mlcompress.report.rows import Report
from tests.report.nets import CLASSES, FEATURES, write_card, write_net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher and a copy, a student, and labels that the teacher gets right but for the first 10."""
    folder = tmp_path_factory.mktemp("measured")
    write_net(folder / "teacher.onnx", 64)
    write_net(folder / "student.onnx", 16, seed=1)
    (folder / "copy.onnx").write_bytes((folder / "teacher.onnx").read_bytes())
    write_card(folder / "student.onnx", folder / "teacher.onnx", "distill")
    x = np.random.default_rng(3).standard_normal((100, FEATURES)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "teacher.onnx", providers=["CPUExecutionProvider"])
    labels = session.run(None, {"x": x})[0].argmax(1)
    labels[:10] = (labels[:10] + 1) % CLASSES
    np.savez(folder / "test.npz", x=x, y=labels)
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> Report:
    recipe = ReportRecipe.model_validate(
        {
            "data": {"evaluate": {"path": str(folder / "test.npz"), "inputs": {"x": "x"}, "label": "y"}},
            "measure": {"repeats": 2},
            "gate": {"max_drop": 1.0, "min_metric": 0.0},
        }
    )
    return collect([folder / name for name in ("teacher.onnx", "student.onnx", "copy.onnx")], recipe)


def test_the_metric_is_measured_with_its_interval_and_pairs(measured):
    teacher, student, copy = (row.score for row in measured.rows)
    assert (teacher.name, teacher.value, teacher.samples, teacher.source) == ("top1", 0.9, 100, "measured")
    # Wilson's interval of 90 of 100, z = 1.959964: (0.82563, 0.94477), worked by hand from its formula
    assert (teacher.low, teacher.high) == (pytest.approx(0.82563, abs=1e-5), pytest.approx(0.94477, abs=1e-5))
    assert (copy.value, copy.fixed, copy.broken) == (0.9, 0, 0)
    assert student.value == pytest.approx(0.9 + (student.fixed - student.broken) / 100)  # 1/100 per sample


def test_latency_is_measured_for_every_file_against_baseline_and_parent(measured):
    paths = [row.path for row in measured.rows]
    for row in measured.rows:
        (timing,) = row.timings
        assert (timing.provider, timing.batch_size, timing.threads, timing.source) == (
            "cpu",
            1,
            1,
            "measured",
        )
        assert 0 < timing.p50 <= timing.p90
        assert timing.fallback_nodes == 0
        assert timing.to_baseline.low <= timing.to_baseline.value <= timing.to_baseline.high
        assert timing.to_baseline.against == paths[0]
    first, second, _ = (row.timings[0] for row in measured.rows)
    assert (first.to_baseline.value, first.to_parent) == (1.0, None)
    assert second.to_parent.against == paths[0]
    assert second.to_parent.value == second.to_baseline.value  # its parent is the baseline


def test_only_a_baseline_that_no_stage_wrote_is_cleaned_before_it_is_timed(chain, tmp_path):
    raw = tmp_path / "raw.onnx"
    model = onnx.load(chain[0])
    model.graph.node.insert(
        0, onnx.helper.make_node("Constant", [], ["b1"], value=model.graph.initializer.pop(1))
    )
    onnx.save(model, raw)
    rows = collect([raw, chain[1], chain[2]], measure=False).rows
    folder = tmp_path / "cleaned"
    folder.mkdir()
    paths = [raw, *chain[1:]]
    cleaned, *others = timed_files(rows, paths, 0, folder)
    assert others == chain[1:]
    assert [node.op_type for node in onnx.load(cleaned).graph.node] == ["Gemm", "Relu", "Gemm"]
    assert timed_files(rows, paths, 1, folder) == paths  # the baseline is an artifact
    assert timed_files((rows[0], rows[0]), [raw, tmp_path / "copy.onnx"], 0, folder) == [cleaned, cleaned]


def test_memory_and_environment_are_measured(measured):
    assert all(row.memory.peak_bytes > 0 and row.memory.load_ms > 0 for row in measured.rows)
    assert measured.environment["onnxruntime"] == onnxruntime.__version__
    assert [limit.verdict for limit in measured.limits] == ["pass", "pass"]
