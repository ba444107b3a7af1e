"""TorchScript files in a report: their own sizes, their card's metric, and no latency of their own."""

import zipfile
from pathlib import Path

import pytest

from mlcompress.errors import ModelError, RecipeError
from mlcompress.recipe.load import load
from mlcompress.report import json_, words
from mlcompress.report.collect import collect
from mlcompress.report.recipe import ReportRecipe
from mlcompress.report.tables import tables
from tests.report.nets import write_card

LATENCY = {
    "provider": "cpu",
    "batch_size": 1,
    "threads": 1,
    "after": {"p50": 2.0, "p90": 2.5},
    "ratio": 0.5,
    "ratio_low": 0.4,
    "ratio_high": 0.6,
    "verdict": "faster",
    "of": "onnx twin",
}


def write_ts(path: Path, made_from: Path) -> Path:
    """What is in it is not read, but by its names it is known."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"0" * 100)
    size = {"after": {"params": 195, "macs": 176, "bytes": 1}}
    write_card(path, made_from, "quantize", size=size, latency=[LATENCY])
    return path


@pytest.fixture
def with_ts(chain: list[Path], tmp_path: Path) -> list[Path]:
    """teacher.onnx -> pruned.onnx, and teacher.onnx -> int8.ts"""
    return [chain[0], chain[1], write_ts(tmp_path / "int8.ts", chain[0])]


def recipe(*overrides: str) -> ReportRecipe:
    return load(None, ReportRecipe, ["measure.repeats=1", *overrides])


def test_figures_of_the_card_are_marked_as_the_twins(with_ts):
    report = collect(with_ts, measure=False)
    row = report.rows[2]
    assert (row.bytes, row.params, row.macs) == (with_ts[2].stat().st_size, 195, 176)
    assert (row.parent, row.stage, row.memory) == (0, "quantize", None)
    assert row.score.value == 0.7
    said = [finding.text for finding in words.findings(report, row)]
    assert f"2.00x faster on cpu (of its onnx twin) than {with_ts[0]}, says the card" in said
    (latency,) = (table for table in tables(report) if table.title.startswith("Latency on"))
    assert [line[4].text for line in latency.lines][1:] == ["2.00x faster", "2.00x faster (of its onnx twin)"]
    models = json_.as_json(report)["models"]
    assert [model["latency"][0]["of"] for model in models[1:]] == [None, "onnx twin"]


def test_what_is_not_run_is_not_measured_and_said(with_ts):
    report = collect([with_ts[0], with_ts[2], with_ts[1]], recipe())
    teacher, traced, pruned = report.rows
    assert (traced.timings, traced.memory, traced.score.source) == ((), None, "card")
    assert traced.parent == pruned.parent == 0
    assert [row.timings[0].source for row in (teacher, pruned)] == ["measured", "measured"]
    assert pruned.timings[0].to_parent.against == str(with_ts[0])
    said = [finding.text for finding in words.findings(report, traced)]
    assert "TorchScript: not run by onnxruntime, latency not measured" in said


@pytest.mark.parametrize("measure", [True, False])
@pytest.mark.parametrize("limit", ["min_speedup", "max_latency_ms"])
def test_no_limit_on_latency_is_applied(with_ts, limit, measure):
    with pytest.raises(
        RecipeError, match=rf"^gate\.{limit}: .*int8\.ts: onnxruntime does not run it; name an ONNX"
    ):
        collect(with_ts, recipe(f"gate.{limit}=1"), measure=measure)


def test_limits_on_size_and_metric_are(with_ts):
    report = collect(with_ts, recipe("gate.max_size_ratio=0.9", "gate.min_metric=0.75"), measure=False)
    assert [limit.verdict for limit in report.limits] == ["missed", "pass"]


def test_it_cannot_be_what_others_are_measured_against(with_ts):
    with pytest.raises(
        RecipeError, match=r"^report\.baseline: .*int8\.ts: onnxruntime does not run it; name an ONNX"
    ):
        collect([with_ts[2], with_ts[0]], recipe())


def test_without_its_card_it_is_refused(with_ts):
    with_ts[2].with_name("int8.ts.json").unlink()
    with pytest.raises(
        ModelError, match=r"int8\.ts: is TorchScript without a card of mlcompress; describe its"
    ):
        collect(with_ts, recipe(), measure=False)


def test_with_the_card_of_other_bytes_too(with_ts):
    with with_ts[2].open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelError, match=r"int8\.ts\.json: belongs to other bytes than int8\.ts"):
        collect(with_ts, recipe(), measure=False)
