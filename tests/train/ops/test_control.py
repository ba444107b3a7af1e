"""If, Loop and Scan: against onnxruntime, in training, as the file has them and after `graph.load`."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress import graph
from mlcompress.errors import ModelError
from mlcompress.train.executor import Executor, unsupported
from tests.train.ops.bodies import CONSTANTS, NETS, branches, parse
from tests.train.ops.oracle import EPS, Array, normal, reference


def feeds(proto: onnx.ModelProto) -> list[dict[str, Array]]:
    """Both values of a condition, no and two repetitions, one and three samples."""
    found = []
    for first, size in ((True, 1), (False, 3), (True, 3), (False, 1)):
        feed: dict[str, Array] = {}
        for value in proto.graph.input:
            kind = value.type.tensor_type
            shape = [dim.dim_value or size for dim in kind.shape.dim]
            if kind.elem_type == onnx.TensorProto.BOOL:
                feed[value.name] = np.array(first)
            elif kind.elem_type == onnx.TensorProto.INT64:
                feed[value.name] = np.array(2 if first else 0)
            else:
                feed[value.name] = normal(*shape, seed=size)
        found.append(feed)
    return found


def tensors(feed: dict[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feed.items()}


def agree(executor: Executor, model: ir.Model, cases: list[dict[str, Array]]) -> None:
    proto = ir.to_proto(model)
    for feed in cases:
        got = executor(tensors(feed)).values()
        for value, wanted in zip(got, reference(proto, feed), strict=True):
            array = value.detach().numpy()
            assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_allclose(array, wanted, rtol=EPS, atol=EPS)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_same_as_onnxruntime_before_and_after_training(name: str, loaded: bool, tmp_path: Path) -> None:
    """Every weight is moved by its own amount, so that two which were confused would show."""
    proto = parse(NETS[name])
    cases = feeds(proto)
    model = ir.from_proto(proto)
    if loaded:
        onnx.save(proto, tmp_path / "net.onnx")
        model = graph.load(tmp_path / "net.onnx")
    executor = Executor(model).eval()
    agree(executor, ir.from_proto(proto), cases)
    with torch.no_grad():
        for index, weight in enumerate(executor.parameters()):
            weight.mul_(1.1 + 0.1 * index)
    executor.write_back()
    onnx.checker.check_model(ir.to_proto(model))
    agree(executor, model, cases)


def test_weights_of_the_same_name_in_two_branches_are_two() -> None:
    for name in ("weights_of_the_same_name", "constants_of_the_same_name"):
        executor = Executor(ir.from_proto(parse(NETS[name])))
        first, second = executor.trainable.values()
        assert (first.tolist(), second.tolist()) == ([1, 2, 3], [5, 6, 7])
        assert list(executor.trainable) == ["v", "v_1"] == list(executor.state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_choice_of_weights", ["v", "v_1"]),
        ("scan_over_weights", ["ws"]),
        ("loop", ["v0", "w"]),
        ("scan", ["b"]),
        ("normalisation", ["scale", "shift"]),
        ("shapes_inside", []),
    ],
)
def test_what_is_trained(name: str, expected: list[str]) -> None:
    executor = Executor(ir.from_proto(parse(NETS[name])))
    assert sorted(executor.trainable) == expected
    assert sorted(executor.statistics) == (["mean", "var"] if name == "normalisation" else [])


def test_a_first_state_is_no_weight() -> None:
    """A constant that a Loop or Scan starts from, although it is then added to."""
    text = NETS["scan"].replace("float[3] start, ", "").replace("CONSTANTS", "<float[3] start = {1, 2, 3}>")
    assert not Executor(ir.from_proto(parse(text.replace("Mul (a, b)", "Add (a, a)")))).trainable


def test_only_the_branch_that_ran_is_trained() -> None:
    executor = Executor(ir.from_proto(parse(NETS["weights_of_the_same_name"])))
    x = torch.from_numpy(normal(2, 3))
    executor({"c": torch.tensor(False), "x": x})["y"].sum().backward()
    first, second = executor.trainable.values()
    assert first.grad is None
    torch.testing.assert_close(second.grad, x.sum(0))  # y = x v


def test_statistics_inside_a_body_move_in_training_mode_only() -> None:
    executor = Executor(ir.from_proto(parse(NETS["normalisation"])))
    feed = {"c": torch.tensor(True), "x": torch.from_numpy(normal(8, 3))}
    before = executor.statistics["mean"].clone()
    executor.eval()(feed)
    assert torch.equal(executor.statistics["mean"], before)
    executor.train()(feed)
    torch.testing.assert_close(executor.statistics["mean"], 0.9 * before + 0.1 * feed["x"].mean(0))


@pytest.mark.parametrize("name", ["loop", "if_in_loop", "scan", "scan_over_weights", "nested"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Of inputs and weights, through all repetitions; central differences in double precision."""
    proto = parse(NETS[name].replace("CONSTANTS", CONSTANTS).replace("float[", "double["))
    executor = Executor(ir.from_proto(proto))
    fixed = {
        key: tensor.double() if tensor.is_floating_point() else tensor
        for key, tensor in tensors(feeds(proto)[0]).items()
    }
    names = [key for key, tensor in fixed.items() if tensor.is_floating_point()]
    weights = [weight for weight in executor.parameters() if weight.numel()]

    def function(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(executor({**fixed, **dict(zip(names, given, strict=False))}).values())

    inputs = [fixed[key].requires_grad_() for key in names]
    assert torch.autograd.gradcheck(function, (*inputs, *weights), atol=1e-7, rtol=1e-5)


def test_training_through_a_loop_lowers_the_loss_and_reaches_the_file() -> None:
    model = ir.from_proto(parse(NETS["loop"]))
    executor = Executor(model).train()
    optimizer = torch.optim.SGD(executor.parameters(), lr=0.2)
    feed = {"m": torch.tensor(3), "x": torch.from_numpy(normal(16, 3))}
    goal = 0.5 * torch.tanh(feed["x"].flip(1))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (executor(feed)["y"] - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    executor.write_back()
    agree(executor, model, [{name: tensor.numpy() for name, tensor in feed.items()}])


def test_copies_are_independent_and_states_load() -> None:
    executor = Executor(ir.from_proto(parse(NETS["loop"])))
    twin = copy.deepcopy(executor)
    feed = {"m": torch.tensor(2), "x": torch.from_numpy(normal(2, 3))}
    with torch.no_grad():
        twin.trainable["v0"].add_(1)
    assert not torch.equal(executor(feed)["y"], twin(feed)["y"])
    twin.load_state_dict(executor.state_dict(), strict=True)
    assert torch.equal(executor(feed)["y"], twin(feed)["y"])


def test_a_loop_of_constants_is_computed_once() -> None:
    text = """net (float[n, 3] x) => (float[n, 3] y) CONSTANTS
    { z = Constant <value = int64 {0}> ()
      k = Loop (limit, , z) <body = step (int64 i, bool go, int64 v) => (bool more, int64 u)
        { more = Identity (go)  u = Add (v, i) }>
      f = Cast <to = 1> (k)  y = Mul (x, f) }"""
    executor = Executor(ir.from_proto(parse(text)))
    assert [step.node for step in executor._plan(frozenset()).steps] == [executor._nodes[-1].name]
    assert torch.equal(executor({"x": torch.ones(1, 3)})["y"], torch.full((1, 3), 3.0))  # 0 + 1 + 2


def test_errors_name_the_node_inside() -> None:
    executor = Executor(ir.from_proto(parse(NETS["weights_of_the_same_name"])))
    message = r"^model: node choice/else_branch/on: .*; do the inputs have the shapes it wants\?$"
    with pytest.raises(ModelError, match=message):
        executor({"c": torch.tensor(False), "x": torch.zeros(2, 4)})


def test_taps_inside_are_refused() -> None:
    executor = Executor(ir.from_proto(parse(NETS["loop"])))
    feed = {"m": torch.tensor(2), "x": torch.zeros(1, 3)}
    assert sorted(executor(feed, ["x", "v0"])) == ["rows", "v0", "x", "y"]
    with pytest.raises(ModelError, match=r"^model: tensor 'p' is inside Loop again; name one outside of it$"):
        executor(feed, ["p"])


REFUSED: dict[str, tuple[str, int, str]] = {
    "an_op_inside": (
        branches("{ q = If (c) <then_branch = a () => (float[n, 3] r) { [odd] r = Mystery (x) },"
                 " else_branch = b () => (float[n, 3] r) { r = Neg (x) }> }", "{ q = Neg (x) }"),
        18,
        "op Mystery (nodes choice/then_branch/q/then_branch/odd)",
    ),
    "an_attribute_inside": (
        branches("{ [odd] q = Relu <slope = 1> (x) }", "{ q = Neg (x) }"),
        18,
        "op Relu (nodes choice/then_branch/odd): attribute slope=1",
    ),
    "scan_of_opset_8": (
        "net (float[1, 3] s, float[1, n, 3] x) => (float[1, 3] y) { [old] y = Scan <num_scan_inputs = 1,"
        " body = step (float[3] a, float[3] v) => (float[3] u) { u = Add (a, v) }> (, s, x) }",
        8,
        "op Scan (nodes old): the form of opset 8 (with a batch axis)",
    ),
    "a_body_that_does_not_fit": (
        "net (int64 m, float[3] x) => (float[3] y) { [off] y = Loop (m, , x) <body = step (int64 i, bool go)"
        " => (bool more) { more = Identity (go) }> }",
        18,
        "op Loop (nodes off): attribute body with 2 inputs and 1 outputs, where the node has 3 and 1,",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    text, opset, expected = REFUSED[name]
    assert unsupported(ir.from_proto(parse(text, opset))) == [f"{expected} has no trainable form"]


def test_sequences_are_refused() -> None:
    """What builds them, and also nodes that only pass one on."""
    text = """net (bool c, float[n, 3] x) => (float[n, 3] y) CONSTANTS
    { s = If (c) <then_branch = a () => (seq(float[n, 3]) q) { q = SequenceConstruct (x) },
                  else_branch = b () => (seq(float[n, 3]) q) { q = SequenceConstruct (x, x) }>
      y = SequenceAt (s, limit) }"""
    found = unsupported(ir.from_proto(parse(text)))
    assert [line.split(" (")[0] for line in found] == ["op SequenceConstruct", "op SequenceAt", "op If"]


def test_no_repetition_needs_a_declared_shape() -> None:
    proto = parse(NETS["loop"])
    body: Any = proto.graph.node[0].attribute[0].g
    body.output[2].type.tensor_type.ClearField("shape")
    executor = Executor(ir.from_proto(proto))
    feed = {"m": torch.tensor(0), "x": torch.zeros(1, 3)}
    with pytest.raises(
        ModelError, match="node again: no steps to run, and no declared shape and type for 'row'"
    ):
        executor(feed)
    assert executor({**feed, "m": torch.tensor(1)})["rows"].shape == (1, 1, 3)
