"""`mlcompress inspect --groups`. Oracle: what is gone after one unit, or one layer, is removed."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlcompress import graph
from mlcompress.cli.app import _status
from mlcompress.graph.dependency import analyse, remove
from mlcompress.graph.dependency.blocks import blocks, bypass
from mlcompress.inspection import group_facts


def test_costs_are_what_is_gone_afterwards(inside: Path) -> None:
    facts = group_facts(Path("teacher.onnx"))
    model = graph.load(Path("teacher.onnx"))
    assert [row["name"] for row in facts["families"]] == ["stem.weight", "top.weight"]
    for row in facts["families"]:
        short = graph.copy(model)
        remove(short, analyse(short), {row["name"]: np.array([0])})
        assert graph.parameters(model) - graph.parameters(short) == row["params_per_unit"]
        assert graph.macs(model) - graph.macs(short) == row["macs_per_unit"]
    (layer,) = facts["layers"]
    bypass(model, blocks(model))
    before = graph.load(Path("teacher.onnx"))
    assert graph.parameters(before) - graph.parameters(model) == layer["params"]
    assert graph.macs(before) - graph.macs(model) == layer["macs"]


def test_members_say_where_a_unit_lives(inside: Path) -> None:
    (stem, _) = group_facts(Path("teacher.onnx"))["families"]
    places = [(member["tensor"], member["axis"], member["reads"]) for member in stem["members"]]
    assert ("stem.weight", 0, False) in places
    assert ("body.weight", 1, True) in places
    assert ("top.weight", 1, True) in places


def test_it_is_printed_and_in_the_json(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(["inspect", "teacher.onnx", "--groups", "--all"]) == 0
    shown = capsys.readouterr().out
    for word in ("body.weight[1]", "residual branches", "What keeps its channels"):
        assert word in shown
    assert _status(["inspect", "teacher.onnx", "--groups", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]["families"][0]["units"] == 16
