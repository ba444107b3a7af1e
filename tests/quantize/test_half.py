"""Computing in 16 bits: numpy's own float16 as the oracle, node by node in graphs that are not optimised."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.session import Level
from mlcompress.quantize.half import Halved, halve
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from tests.quantize import nets


def halved(model: ir.Model, keep: tuple[str, ...] = (), kind: str = "fp16") -> tuple[ir.Model, Halved]:
    made = graph.copy(model)
    graph.infer_shapes(made)
    return made, halve(made, kind, keep)


def types(model: ir.Model) -> dict[str, str]:
    """Element type of every node's first output, as a strict reader of the written file infers it."""
    made = ir.from_proto(ir.to_proto(model))
    for node in made.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = None
    graph.infer_shapes(made)
    return {str(node.name): node.outputs[0].dtype.name for node in made.graph if node.outputs[0].dtype}


def x(*shape: int) -> np.ndarray:
    return nets.floats(np.random.default_rng(1), *shape)


def test_a_chain_computes_in_half_between_casts() -> None:
    before = nets.perceptron()
    made, found = halved(before)
    assert found.nodes == ["one", "bias", "act", "two", "three"]
    assert found.reasons == {"soft": "Softmax sums, squares or exponentiates: fp16 may not hold it"}
    told = types(made)
    assert {told[name] for name in found.nodes} == {"FLOAT16"}
    assert told["soft"] == "FLOAT"
    for one, other in ((before, made),):
        assert [(v.name, v.dtype) for v in one.graph.inputs] == [
            (v.name, v.dtype) for v in other.graph.inputs
        ]
        assert [(v.name, v.dtype) for v in one.graph.outputs] == [
            (v.name, v.dtype) for v in other.graph.outputs
        ]
    assert {a.const_value.dtype.name for a in made.graph.initializers.values() if a.const_value} == {
        "FLOAT16"
    }
    assert nets.decibels(*(nets.outputs(m, {"x": x(5, 32)})[0] for m in (before, made))) > 55


def test_one_node_is_numpys_half() -> None:
    text = "g (float[n, 8] x) => (float[n, 8] y) { [a] s = Add (x, k) [m] y = Mul (s, x) }"
    k = nets.floats(np.random.default_rng(2), 8)
    made, found = halved(nets.build(text, {"k": k}))
    assert found.nodes == ["a", "m"]
    assert found.weights == ["k"]
    values = x(6, 8)
    h = values.astype(np.float16)
    wanted = ((h + k.astype(np.float16)) * h).astype(np.float32)
    (y,) = nets.outputs(made, {"x": values}, Level.ORT_DISABLE_ALL)
    # onnxruntime's CPU provider may keep float32 between the nodes: one rounding of 2^-11 less.
    np.testing.assert_allclose(y, wanted, rtol=3 * 2.0**-11, atol=1e-3)
    exact = (values + k) * values
    assert not np.array_equal(y, exact)


def test_sums_of_squares_and_epsilons_stay_single() -> None:
    text = """
    g (float[n, 16] x) => (float[n, 16] y) {
        [big] a = Mul (x, hundred)
        [square] b = Pow (a, two)
        [mean] c = ReduceMean <axes = [1], keepdims = 1> (b)
        [eps] d = Add (c, epsilon)
        [root] e = Sqrt (d)
        [div] y = Div (a, e)
    }
    """
    constants = {
        name: np.array(number, np.float32)
        for name, number in {"hundred": 3000, "two": 2, "epsilon": 1e-12}.items()
    }
    before = nets.build(text, constants, opset=17)
    made, found = halved(before)
    assert found.nodes == ["big", "div"]
    assert found.reasons["eps"] == "it reads a constant that fp16 cannot hold"
    arrays = {"x": x(4, 16)}
    y = nets.outputs(made, arrays)[0]
    np.testing.assert_allclose(y, nets.outputs(before, arrays)[0], rtol=2e-3)
    # All in half, the squares overflow: the rule matters.
    a = (arrays["x"] * 3000).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(a * a).any()


def test_a_mask_of_huge_numbers_does_not_become_infinite() -> None:
    text = """
    g (float[n, 8] x, float[n, 8] mask) => (float[n, 8] y) {
        [w] s = MatMul (x, w)
        [m] b = Mul (mask, low)
        [add] t = Add (s, b)
        [soft] p = Softmax <axis = -1> (t)
        [out] y = MatMul (p, w)
    }
    """
    before = nets.build(text, {"w": x(8, 8), "low": np.array(-3.4e38, np.float32)})
    made, found = halved(before)
    assert found.nodes == ["w", "out"]
    assert found.reasons["add"] == "what it reads may be larger than fp16 can hold"
    arrays = {"x": x(3, 8), "mask": np.ones((3, 8), np.float32)}  # everything is masked: -inf would give NaN
    assert np.isfinite(nets.outputs(made, arrays)[0]).all()


def test_nodes_that_are_named_stay_single() -> None:
    made, found = halved(nets.perceptron(), ("two",))
    assert found.reasons["two"] == "`skip` names it"
    assert types(made)["two"] == "FLOAT"
    assert nets.array(made, "two_weight").dtype == np.float32


def test_inner_bodies_read_single_numbers() -> None:
    text = """
    g (float[n, 8] x, bool c) => (float[n, 8] y, float[n, 8] s) {
        [w] s = MatMul (x, w)
        [if] y = If (c) <
            then_branch = t () => (float[n, 8] p) { [in] p = Mul (s, s) },
            else_branch = e () => (float[n, 8] q) { [un] q = Neg (s) }
        >
    }
    """
    before = nets.build(text, {"w": x(8, 8)})
    made, found = halved(before)
    assert found.nodes == ["w"]
    for flag in (True, False):
        arrays = {"x": x(3, 8), "c": np.asarray(flag)}
        for one, other in zip(nets.outputs(before, arrays), nets.outputs(made, arrays), strict=True):
            assert nets.decibels(one, other) > 50


def test_inputs_with_a_type_of_their_own_keep_it() -> None:
    text = """
    g (float[1, 4, 8, 8] x) => (float[1, 4, 16, 16] y) {
        [up] r = Resize <mode = "linear"> (x, , scales)
        [conv] y = Conv <pads = [1, 1, 1, 1]> (r, w)
    }
    """
    before = nets.build(text, {"scales": np.array([1, 1, 2, 2], np.float32), "w": x(4, 4, 3, 3)})
    made, found = halved(before)
    assert found.nodes == ["up", "conv"]
    assert nets.array(made, "scales").dtype == np.float32
    assert nets.decibels(*(nets.outputs(m, {"x": x(1, 4, 8, 8)})[0] for m in (before, made))) > 50


def cast(model: ir.Model, compute: str = "fp16", **others: Any) -> tuple[ir.Model, Any]:
    recipe = QuantizeRecipe.model_validate({"quantize": {"mode": "cast", "compute": compute}, **others})
    return run(model, recipe, Context(seed=0))


def test_the_stage_halves_the_file_and_warns_of_the_cpu() -> None:
    made, change = cast(nets.residual(), skip=["fc"])
    assert change.details["half_nodes"] == 10
    assert change.details["compute"] == "fp16"
    assert {"name": "fc", "reason": "`skip` names it"} in change.skipped
    assert set(change.details["stored"].values()) == {"fp16"}
    assert change.details["bytes"]["after"] < 0.6 * change.details["bytes"]["before"]
    assert "CPU provider computes fp16 in float32" in change.warnings[0]
    assert (
        nets.decibels(*(nets.outputs(m, {"image": x(2, 1, 8, 8)})[0] for m in (nets.residual(), made))) > 50
    )
    assert graph.to_bytes(made) == graph.to_bytes(cast(nets.residual(), skip=["fc"])[0])


def test_bf16_is_refused_where_the_provider_has_no_kernels() -> None:
    with pytest.raises(
        UnsupportedError, match=r"compute bf16: cpu cannot run it: .*implementation.*compute: float"
    ):
        cast(nets.residual(), "bf16")


def test_what_comes_near_the_largest_number_stays_single() -> None:
    text = """
    g (float[n, 64] x) => (float[n, 64] y) {
        [one] a = MatMul (x, w)
        [two] b = MatMul (a, w)
        [small] c = Tanh (b)
        [three] y = MatMul (c, w)
    }
    """
    model = nets.build(text, {"w": np.full((64, 64), 30, np.float32)})
    _, change = cast(model)
    reasons = {entry["name"]: entry["reason"] for entry in change.skipped}
    assert reasons == {
        "two": "its results come near the largest fp16 number",
        "small": "what it reads may be larger than fp16 can hold",
    }
    assert change.details["half_nodes"] == 2


def test_lengths_that_are_computed_in_floats_stay_exact() -> None:
    """Half of 4999 is 2499; half of the next fp16 number, 5000, is 2500."""
    text = """
    g (float[1, t] x) => (float[1, s] y, float[1, s] z) {
        shape = Shape (x)
        [length] length = Gather (shape, one)
        single = Cast <to = 1> (length)
        [mul] m = Mul (single, half)
        [floor] f = Floor (m)
        end = Cast <to = 7> (f)
        part = Slice (x, zero, end, one)
        [mm] y = MatMul (w, part)
        [times] z = Mul (y, half)
    }
    """
    integers = {"zero": np.array([0]), "one": np.array([1])}
    before = nets.build(text, {**integers, "half": np.float32([0.5]), "w": x(1, 1)})
    made, found = halved(before)
    assert {"mm", "times"} <= set(found.nodes)
    exact = "integers are made of its results, which fp16 does not hold exactly"
    assert found.reasons == {"mul": exact, "floor": exact}
    shapes = [nets.outputs(m, {"x": x(1, 4999)}, Level.ORT_DISABLE_ALL)[0].shape for m in (before, made)]
    assert shapes[0] == shapes[1] == (1, 2499)


def test_outputs_that_are_left_out_are_not_looked_at() -> None:
    text = """
    g (float[5, 1, 8] x) => (float[1, 1, 8] y) {
        [rnn] , y = LSTM <hidden_size = 8> (x, w, r)
    }
    """
    model = nets.build(text, {"w": x(1, 32, 8), "r": x(1, 32, 8)})
    model.graph.node(0).outputs[0].type = ir.TensorType(ir.DataType.FLOAT)  # as loading a file leaves it
    made, change = cast(model)
    assert change.details["half_nodes"] == 1
    assert nets.decibels(*(nets.outputs(m, {"x": x(5, 1, 8)})[0] for m in (model, made))) > 50


def test_inputs_that_come_near_the_largest_number_are_read_as_they_are() -> None:
    model = nets.build(
        "g (float[n, 32] x) => (float[n, 32] y) { [small] a = Tanh (x) [mm] y = MatMul (a, w) }",
        {"w": x(32, 32)},
    )
    recipe = QuantizeRecipe.model_validate({"quantize": {"mode": "cast", "compute": "fp16"}})
    for most, reasons in ((1e6, ["what it reads may be larger than fp16 can hold"]), (1e3, [])):
        _, change = run(model, recipe, Context(seed=0, feed={"x": np.full((1, 32), most, np.float32)}))
        assert [entry["reason"] for entry in change.skipped] == reasons


def test_numbers_that_would_all_become_0_stay_single() -> None:
    model = nets.build(
        "g (float[n, 4] x) => (float[n, 4] y) { [mul] y = Mul (x, tiny) }",
        {"tiny": np.full(4, 1e-9, np.float32)},
    )
    assert halved(model)[1].reasons == {"mul": "it reads a constant that fp16 cannot hold"}
