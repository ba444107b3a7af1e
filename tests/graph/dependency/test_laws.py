"""Laws that hold for every removal: nothing for nothing, one step or two, any order of nodes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.graph import dependency
from tests.graph.dependency.nets import NETS, residual
from tests.graph.dependency.oracle import check_two_steps, half, inputs, run, same

SOME = ["residual", "depthwise", "shuffle", "split", "tied", "attention_fused", "lstm_two_ways"]


@pytest.mark.parametrize("name", NETS)
def test_removing_nothing_changes_no_byte(name: str) -> None:
    model = NETS[name]()
    before = graph.to_bytes(model)
    analysis = dependency.analyse(model)
    assert dependency.remove(model, analysis, {}) == {}
    empty = {family.name: np.array([], dtype=np.int64) for family in analysis.families}
    assert dependency.remove(model, analysis, empty) == {}
    assert graph.to_bytes(model) == before


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SOME)
def test_two_steps_equal_one(name: str, seed: int) -> None:
    check_two_steps(NETS[name], seed)


@pytest.mark.parametrize("name", ["split", "attention_fused", "attention_apart", "pixels"])
def test_node_order_does_not_matter(name: str) -> None:
    model = NETS[name]()
    other = _other_order(model)
    assert [node.name for node in other.graph] != [node.name for node in model.graph]
    analysis, again = dependency.analyse(model), dependency.analyse(other)
    units = {_weights(f, unit): (f.name, unit) for f in again.families for unit in range(f.units)}
    dead = half(analysis)
    same_dead: dict[str, list[int]] = {}
    for family in analysis.families:
        for unit in dead[family.name]:
            twin, number = units[_weights(family, unit)]
            same_dead.setdefault(twin, []).append(number)
    dependency.remove(model, analysis, dead)
    dependency.remove(other, again, {name: np.array(ids) for name, ids in same_dead.items()})
    feeds = inputs(model, 2)
    same(run(other, feeds), run(model, feeds))


def _weights(family: dependency.Family, unit: int) -> object:
    return frozenset((m.tensor, m.axis, frozenset(m.index[unit].tolist())) for m in family.members)


def _other_order(model: ir.Model) -> ir.Model:
    """The same graph in another topological order: always the last of the nodes that could come next."""
    proto = onnx.load_from_string(graph.to_bytes(model))
    known = {value.name for value in (*proto.graph.input, *proto.graph.initializer)} | {""}
    waiting, ordered = list(proto.graph.node), []
    while waiting:
        place = max(number for number, node in enumerate(waiting) if set(node.input) <= known)
        ordered.append(waiting.pop(place))
        known |= set(ordered[-1].output)
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)
    model = ir.serde.deserialize_model(proto)
    graph.infer_shapes(model)
    return model


def test_names_stay_with_their_units() -> None:
    """Families of one weight keep their names when others shrink, whichever positions are left."""
    before = {family.name: family for family in dependency.analyse(NETS["split"]()).families}
    for name, family in before.items():
        model = NETS["split"]()
        dependency.remove(model, dependency.analyse(model), {name: np.arange(max(0, family.units - 2))})
        after = {other.name: other.units for other in dependency.analyse(model).families}
        assert after == {**{other: f.units for other, f in before.items()}, name: min(2, family.units)}


def test_shapes_of_values_follow() -> None:
    model = residual()
    analysis = dependency.analyse(model)
    dependency.remove(model, analysis, half(analysis))
    shapes = {
        value.name: value.shape for node in model.graph for value in node.outputs if value.shape is not None
    }
    graph.infer_shapes(model)
    for node in model.graph:
        for value in node.outputs:
            assert shapes.get(value.name, value.shape) == value.shape


@pytest.mark.parametrize(
    ("dead", "message"),
    [
        ({"w0": [99]}, "family 'w0' has 16 units"),
        ({"w0": [-1]}, "family 'w0' has 16 units"),
        ({"nope": [0]}, "no family 'nope'"),
        ({"w0": range(16)}, "would lose all"),
    ],
)
def test_wrong_requests_are_refused_before_anything_changes(dead: dict[str, list[int]], message: str) -> None:
    model = residual()
    before = graph.to_bytes(model)
    asked = {name: np.array(units) for name, units in dead.items()}
    with pytest.raises(ValueError, match=message):
        dependency.remove(model, dependency.analyse(model), asked)
    assert graph.to_bytes(model) == before


def test_an_analysis_of_another_model_is_refused() -> None:
    model = residual()
    analysis = dependency.analyse(model)
    dead = {"w0": np.array([0])}
    dependency.remove(model, analysis, dead)
    with pytest.raises(ValueError, match="not the one that was analysed"):
        dependency.remove(model, analysis, dead)
