"""DynamicQuantizeLSTM: one step against the formula in numpy, whole sequences against the float op."""

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.quantize.dynamic import insert_dynamic
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.recurrent import insert_lstm, lstm_obstacle
from mlcompress.quantize.run import run
from tests.quantize import nets

WIDTH, HIDDEN = 24, 64


def lstm(
    directions: int = 1, attributes: str = "", hidden: int = HIDDEN, op: str = "LSTM", gates: int = 4
) -> ir.Model:
    rng = np.random.default_rng(0)
    name = "bidirectional" if directions == 2 else "forward"
    state = "h, c" if op == "LSTM" else "h"
    last = "last, cell" if op == "LSTM" else "last"
    return nets.build(
        f"""
        g (float[steps, batch, {WIDTH}] x, float[d, batch, {hidden}] h, float[d, batch, {hidden}] c)
            => (float[steps, d, batch, {hidden}] y, float[d, batch, {hidden}] last) {{
            [rnn] y, {last} = {op} <hidden_size = {hidden}, direction = "{name}" {attributes}> (x, w, r, b, , {state})
        }}
        """,
        {
            "w": nets.floats(rng, directions, gates * hidden, WIDTH, scale=0.2),
            "r": nets.floats(rng, directions, gates * hidden, hidden, scale=0.1),
            "b": nets.floats(rng, directions, 2 * gates * hidden, scale=0.1),
        },
    )


def feed(directions: int = 1, steps: int = 6, batch: int = 3) -> nets.Arrays:
    rng = np.random.default_rng(1)
    return {
        "x": nets.floats(rng, steps, batch, WIDTH),
        "h": np.tanh(nets.floats(rng, directions, batch, HIDDEN)),
        "c": nets.floats(rng, directions, batch, HIDDEN),
    }


def as_codes(x: np.ndarray) -> np.ndarray:
    """What 8 bits leave of x: DynamicQuantizeLinear's definition, decoded."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (high - low) / 255
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale)


def as_weight(w: np.ndarray, per_channel: bool) -> np.ndarray:
    scale = np.abs(w).max(axis=1, keepdims=True) / 127 if per_channel else np.abs(w).max() / 127
    return np.asarray(np.clip(np.rint(w / scale), -127, 127) * scale)


@pytest.mark.parametrize("per_channel", [True, False])
def test_one_step_is_the_formula(per_channel: bool) -> None:
    before = lstm()
    made = graph.copy(before)
    insert_lstm(made, lambda node: True, per_channel=per_channel)
    arrays = feed(steps=1, batch=1)
    w, r, b = (nets.array(before, name)[0].astype(np.float64) for name in "wrb")
    x, h, c = (arrays[name][0].astype(np.float64) for name in "xhc")
    gates = as_codes(x) @ as_weight(w, per_channel).T + as_codes(h) @ as_weight(r, per_channel).T
    i, o, f, z = np.split(gates + b[: 4 * HIDDEN] + b[4 * HIDDEN :], 4, axis=1)
    new = c / (1 + np.exp(-f)) + np.tanh(z) / (1 + np.exp(-i))
    y = np.tanh(new) / (1 + np.exp(-o))
    # onnxruntime's tanh and sigmoid are float32 approximations, good to 1e-6 or so.
    np.testing.assert_allclose(nets.outputs(made, arrays)[1][0], y, atol=2e-5)
    assert np.abs(nets.outputs(before, arrays)[1][0] - y).max() > 1e-4


@pytest.mark.parametrize("directions", [1, 2])
def test_sequences_stay_close_to_float_in_a_quarter_of_the_bytes(directions: int) -> None:
    before = lstm(directions)
    made = graph.copy(before)
    insert_dynamic(made, lambda node: True)
    assert nets.kernels(made, feed(directions)) == {"DynamicQuantizeLSTM": 1}
    for one, other in zip(
        nets.outputs(before, feed(directions)), nets.outputs(made, feed(directions)), strict=True
    ):
        assert nets.decibels(one, other) > 36
    assert len(graph.to_bytes(made)) < 0.3 * len(graph.to_bytes(before))
    assert made.graph.node(0).name == "rnn"


def test_weights_of_a_float_lstm_are_left_to_it() -> None:
    before = lstm()
    made = graph.copy(before)
    insert_lstm(made, lambda node: False)
    assert graph.to_bytes(made) == graph.to_bytes(before)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lstm(hidden=32), "float: integers would not be faster with 32 hidden units"),
        (
            lstm(attributes=", layout = 1"),
            "its batch comes first (layout 1), which the integer kernel has not",
        ),
    ],
)
def test_obstacles(model: ir.Model, reason: str) -> None:
    assert lstm_obstacle(model.graph.node(0)) == reason
    insert_lstm(model, lambda node: True)
    assert nets.ops(model) == ["LSTM"]


def test_dynamic_takes_lstm_and_other_modes_say_where_to_go() -> None:
    dynamic = QuantizeRecipe.model_validate({"quantize": {"mode": "dynamic"}})
    context = Context(seed=0, feed=feed())
    made, change = run(lstm(), dynamic, context)
    assert change.summary == "dynamic int8: 1 LSTM"
    assert [entry["name"] for entry in change.skipped] == ["b"]  # the bias: not a weight to be stored
    assert nets.ops(made) == ["DynamicQuantizeLSTM"]
    assert change.details["kernels"] == {"DynamicQuantizeLSTM": 1}


def test_an_attribute_that_says_the_default_is_no_obstacle() -> None:
    plain, said = lstm(), lstm(attributes=", layout = 0")
    for model in (plain, said):
        insert_lstm(model, lambda node: True)
    for one, other in zip(nets.outputs(plain, feed()), nets.outputs(said, feed()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gru_has_none() -> None:
    made = lstm(op="GRU", gates=3)
    insert_dynamic(made, lambda node: True)
    assert nets.ops(made) == ["GRU"]
