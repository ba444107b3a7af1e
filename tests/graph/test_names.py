"""Patterns of a recipe: globs on node, output and initializer names, `op:Type`."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.errors import RecipeError

Write = Callable[..., Path]


@pytest.fixture
def model(write: Write) -> ir.Model:
    return graph.load(
        write(
            """net (float[N, 2] x, bool c) => (float[N, 2] y)
               <float[2, 2] fc_weight = {1, 2, 3, 4}, float[2, 2] head = {1, 2, 3, 4}> {
                [stage_1] h = MatMul(x, fc_weight)
                [stage_2] k = Relu(h)
                [branch] y = If (c) <
                    then_branch = t () => (float[N, 2] a) { [inner] a = MatMul(k, head) },
                    else_branch = e () => (float[N, 2] b) { [other] b = Neg(k) }>
            }"""
        )
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stage_1", ["stage_1"]),
        ("stage_*", ["stage_1", "stage_2"]),
        ("stage_[2-9]", ["stage_2"]),
        ("fc_weight", ["stage_1"]),
        ("k", ["stage_2"]),
        ("head", ["inner"]),
        ("op:MatMul", ["stage_1", "inner"]),
        ("op:*e*", ["stage_2", "other"]),
        ("x", []),  # an input is neither a node nor what a node makes
        ("STAGE_1", []),
        ("op:matmul", []),
    ],
)
def test_patterns(model: ir.Model, pattern: str, expected: list[str]) -> None:
    found = graph.nodes_matching(model, [pattern])
    assert [node.name for node in found.nodes] == expected
    assert found.unmatched == (() if expected else (pattern,))


def test_several_patterns_give_each_node_once_in_graph_order(model: ir.Model) -> None:
    found = graph.nodes_matching(model, ["op:Relu", "lost", "stage_*", "also lost"])
    assert [node.name for node in found.nodes] == ["stage_1", "stage_2"]
    assert found.unmatched == ("lost", "also lost")


def test_a_name_with_brackets_matches_itself(model: ir.Model) -> None:
    model.graph.node(0).name = "layer[0]"
    assert [node.name for node in graph.nodes_matching(model, ["layer[0]"]).nodes] == ["layer[0]"]


def test_a_pattern_without_a_match_gets_the_nearest_name(model: ir.Model) -> None:
    assert graph.no_match(model, "stge_1", "p.yaml:3: skip") == (
        "p.yaml:3: skip: 'stge_1' matches no node; did you mean 'stage_1'?"
    )
    assert "did you mean 'op:MatMul'?" in graph.no_match(model, "op:Matmul", "skip")
    assert "`mlcompress inspect` lists the names" in graph.no_match(model, "zzzzzz", "skip")


def test_skipped_nodes_are_names_and_every_lost_pattern_is_told(model: ir.Model) -> None:
    assert graph.skipped_nodes(model, ["op:MatMul", "k"]) == {"stage_1", "stage_2", "inner"}
    assert graph.skipped_nodes(model, []) == set()
    with pytest.raises(RecipeError) as problem:
        graph.skipped_nodes(model, ["stage_1", "stge_2", "zzzzzz"])
    assert [line.split(";")[0] for line in problem.value.lines] == [
        "skip: 'stge_2' matches no node",
        "skip: 'zzzzzz' matches no node",
    ]
