"""Collecting from real model files and hand-written cards; nothing is timed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlcompress import files, report
from mlcompress.errors import ModelError, RecipeError
from mlcompress.exits import Exit
from mlcompress.report.collect import collect
from mlcompress.report.recipe import ReportRecipe
from tests.report.nets import write_card, write_net


def gated(**limits: Any) -> ReportRecipe:
    return ReportRecipe.model_validate({"gate": limits})


# ---------------------------------------------------------------- cards


def test_sizes_are_those_of_the_files_and_history_is_the_cards(chain):
    rows = collect(chain, measure=False).rows
    assert [row.params for row in rows] == [12 * hidden + 3 for hidden in (64, 32, 16)]
    assert [row.macs for row in rows] == [11 * hidden for hidden in (64, 32, 16)]
    assert [row.bytes for row in rows] == [path.stat().st_size for path in chain]
    assert [row.sha256 for row in rows] == [files.sha256(path) for path in chain]
    assert [row.parent for row in rows] == [None, 0, 1]
    assert [row.stage for row in rows] == [None, "prune", "distill"]
    assert rows[1].summary == "half of the units"
    assert rows[1].warnings == ("a warning of the stage",)
    assert [(item.name, item.reason) for item in rows[1].skipped] == [("b2", "output axis")]


def test_figures_of_cards_are_marked(chain):
    result = collect(chain, measure=False)
    row = result.rows[1]
    assert not result.measured
    assert (row.score.value, row.score.samples, row.score.low, row.score.source) == (0.7, 50, 0.56, "card")
    (timing,) = row.timings
    assert (timing.p50, timing.p90, timing.source) == (2.0, 2.5, "card")
    assert timing.to_baseline is None
    assert (timing.to_parent.value, timing.to_parent.verdict, timing.to_parent.against) == (
        0.5,
        "faster",
        str(chain[0]),
    )
    assert (row.memory.peak_bytes, row.memory.load_ms, row.memory.source) == (5_000_000, 12.5, "card")


def test_a_file_without_a_card_gets_its_metric_from_the_card_of_its_child(chain):
    score = collect(chain, measure=False).rows[0].score
    assert (score.value, score.low, score.source) == (0.8, None, "card")


def test_random_data_are_told_apart_by_what_they_were_used_for(chain):
    rows = collect(chain, measure=False).rows
    assert [row.synthetic for row in rows] == [False, True, True]  # trained on random numbers
    assert not rows[1].score.synthetic  # and judged on real ones
    write_card(chain[1], chain[0], data={"evaluate": {"synthetic": True}})
    assert collect(chain, measure=False).rows[1].score.synthetic


def test_a_card_of_other_bytes_is_ignored_and_said(chain):
    write_net(chain[1], 24)  # changed after its card was written
    row = collect(chain, measure=False).rows[1]
    assert (row.stage, row.parent, row.score, row.timings) == (None, None, None, ())
    assert "belongs to other bytes" in row.warnings[0]


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"parent": None}, "parent"),
        ({"metric": {"name": "top1", "after": "good"}}, "metric.after"),
        ({"latency": [{"provider": "cpu"}]}, "latency.0"),
        ({"change": {"skipped": [3]}}, "change.skipped.0"),
    ],
)
def test_a_card_of_the_right_bytes_and_wrong_content_is_ignored_and_said(chain, changed, part):
    write_card(chain[1], chain[0], **changed)
    row = collect(chain, measure=False).rows[1]
    assert row.stage is None
    assert f"pruned.onnx.json: {part}" in row.warnings[0]


def test_a_card_that_says_less_is_enough(chain):
    write_card(chain[1], chain[0], metric=None, latency=[], memory=None, data=None, change={})
    row = collect(chain, measure=False).rows[1]
    assert (row.stage, row.score, row.timings, row.memory) == ("prune", None, (), None)


# ---------------------------------------------------------------- baseline and gate


def test_the_baseline_may_be_any_of_the_files(chain):
    recipe = ReportRecipe.model_validate({"report": {"baseline": str(chain[1])}})
    assert collect(chain, recipe, measure=False).baseline == 1
    assert collect(chain, gated(baseline=str(chain[2])), measure=False).baseline == 2


def test_a_baseline_that_is_not_reported_is_refused(chain):
    recipe = ReportRecipe.model_validate(
        {"report": {"baseline": "other.onnx"}, "gate": {"baseline": str(chain[1])}}
    )
    with pytest.raises(RecipeError) as problem:
        collect(chain, recipe, measure=False)
    assert problem.value.lines == (
        "report.baseline: other.onnx is not among the files of the report; name it on the command line too",
    )
    recipe = ReportRecipe.model_validate(
        {"report": {"baseline": str(chain[0])}, "gate": {"baseline": str(chain[1])}}
    )
    with pytest.raises(RecipeError, match="one baseline"):
        collect(chain, recipe, measure=False)


def test_the_gate_holds_the_last_file_against_the_baseline(chain):
    ratio = chain[2].stat().st_size / chain[0].stat().st_size
    (limit,) = collect(chain, gated(max_size_ratio=0.9), measure=False).limits
    assert (limit.verdict, limit.value) == ("pass", pytest.approx(ratio))
    assert collect(chain, gated(max_size_ratio=ratio / 2), measure=False).missed
    assert collect(list(reversed(chain)), gated(max_size_ratio=0.9), measure=False).missed


def test_a_metric_limit_uses_the_cards_metric(chain):
    write_card(chain[2], chain[1], metric={"name": "top1", "before": 0.7, "after": 0.65, "samples": 50})
    (limit,) = collect(chain, gated(max_drop=0.2), measure=False).limits
    assert (limit.verdict, limit.value) == ("pass", pytest.approx(0.15))  # from the teacher's 0.8


@pytest.mark.parametrize(("name", "verdict"), [("mse", "missed"), ("top1", "pass")])
def test_an_error_that_grows_is_a_drop(chain, name, verdict):
    """From 0.8 to 0.9: worse by 0.1 for mse, better for top1."""
    for artifact, parent, after in ((chain[1], chain[0], 0.85), (chain[2], chain[1], 0.9)):
        write_card(artifact, parent, metric={"name": name, "before": 0.8, "after": after, "samples": 50})
    (limit,) = collect(chain, gated(max_drop=0.05), measure=False).limits
    assert (limit.verdict, abs(limit.value)) == (verdict, pytest.approx(0.1))


def test_a_ratio_of_a_card_counts_only_against_its_own_parent(chain):
    """0.5 was measured against pruned.onnx; against teacher.onnx nobody measured."""
    (limit,) = collect(chain, gated(min_speedup=1.1), measure=False).limits
    assert (limit.verdict, limit.text) == ("missed", "not measured")
    (limit,) = collect(chain[:2], gated(min_speedup=1.1), measure=False).limits
    assert limit.verdict == "pass"


# ---------------------------------------------------------------- bad files


def test_all_bad_files_are_told_at_once(chain, tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError) as problem:
        collect([*chain, tmp_path / "text.onnx", tmp_path / "gone.onnx"], measure=False)
    assert len(problem.value.lines) == 2
    assert "text.onnx" in problem.value.lines[0]
    assert "gone.onnx" in problem.value.lines[1]


# ---------------------------------------------------------------- run


def test_run_prints_tables_and_writes_every_format(chain, tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("report: {formats: [md, xml]}\n")
    status = report.run(chain, str(recipe), [], [tmp_path / "r.html"], measure=False)
    assert status == Exit.DONE
    assert sorted(path.name for path in tmp_path.glob("r.*")) == ["r.html", "r.md", "r.xml", "r.yaml"]
    out, err = capsys.readouterr()
    assert "Nothing was measured for this report" in out
    assert "2.00x faster on cpu than " in out
    assert "warning: " in err
    assert "a warning of the stage" in err


def test_run_prints_json_alone_on_stdout(chain, capsys):
    assert report.run(chain, None, [], [], measure=False, json=True) == Exit.DONE
    assert [model["path"] for model in json.loads(capsys.readouterr().out)["models"]] == [
        str(path) for path in chain
    ]


def test_a_missed_gate_is_exit_1_and_the_report_that_says_so_is_written(chain, tmp_path):
    status = report.run(chain, None, ["gate.max_bytes=10"], [tmp_path / "r.xml"], measure=False)
    assert status == Exit.GATE_MISSED
    assert 'failures="1"' in (tmp_path / "r.xml").read_text()


def test_figures_do_not_depend_on_the_working_directory(chain, monkeypatch):
    monkeypatch.chdir(chain[0].parent)
    inside = collect([Path(path.name) for path in chain], measure=False)
    outside = collect(chain, measure=False)
    strip = [replace(row, path="", parent_path=None, score=None, timings=()) for row in inside.rows]
    assert strip == [replace(row, path="", parent_path=None, score=None, timings=()) for row in outside.rows]
