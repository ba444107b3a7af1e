"""Weights where real files have them: Constant nodes, embeddings, tied, ConvTranspose, LSTM and GRU."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from tests.quantize import nets

TEXT = """
g (int64[4, 2] ids) => (float[2, 8, 5, 5] y, float[4, 2, 40] logits, float[1, 2, 64] last) {
    [look] e = Gather (table, ids)
    [rnn] s, h = GRU <hidden_size = 24> (e, gru_w, gru_r)
    [sq] t = Squeeze (s, one)
    [cell] s2, last = LSTM <hidden_size = 64> (t, lstm_w, lstm_r)
    [sq2] u = Squeeze (s2, one)
    [narrow] v = MatMul (u, down)
    [turn] tied = Transpose <perm = [1, 0]> (table)
    [head] logits = MatMul (v, tied)
    [image] p = Reshape (last, shape)
    [up] y = ConvTranspose (p, deconv)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> ir.Model:
    """The graph as a file with one weight in a Constant node, loaded as the command line does."""
    rng = np.random.default_rng(0)
    weights = {
        "table": nets.floats(rng, 40, 32),
        "gru_w": nets.floats(rng, 1, 72, 32, scale=0.2),
        "gru_r": nets.floats(rng, 1, 72, 24, scale=0.2),
        "lstm_w": nets.floats(rng, 1, 256, 24, scale=0.2),
        "lstm_r": nets.floats(rng, 1, 256, 64, scale=0.1),
        "deconv": nets.floats(rng, 4, 8, 2, 2),
        "down": nets.floats(rng, 64, 32, scale=0.2),
        "one": np.array([1]),
        "shape": np.array([2, 4, 4, 4]),
    }
    proto = ir.to_proto(nets.build(TEXT, weights))
    kept = [tensor for tensor in proto.graph.initializer if tensor.name != "down"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    value = numpy_helper.from_array(weights["down"], "down")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["down"], "down_node", value=value))
    onnx.save(proto, tmp_path / "m.onnx")
    return graph.load(tmp_path / "m.onnx")


def ids() -> nets.Arrays:
    return {"ids": np.random.default_rng(1).integers(0, 40, (4, 2))}


def quantised(model: ir.Model, **section: Any) -> tuple[ir.Model, Any]:
    return run(model, QuantizeRecipe.model_validate({"quantize": section}), Context(seed=0, feed=ids()))


def rounded(name: str, array: np.ndarray) -> np.ndarray:
    """int8 with one scale for each output channel, by what reads the weight."""
    axes = {"table": (1,), "down": (0,), "deconv": (0, 2, 3)}.get(name, (2,))
    scale = (np.abs(array).max(axis=axes, keepdims=True) / 127).astype(np.float32)
    return np.asarray(np.clip(np.rint(array / scale), -127, 127).astype(np.float32) * scale)


WEIGHTS = ("table", "gru_w", "gru_r", "lstm_w", "lstm_r", "down")
"""All but `deconv`, which has 128 numbers: too few to be stored otherwise."""


def test_all_of_them_are_stored_with_their_channels(model: ir.Model) -> None:
    made, change = quantised(model, mode="weight_only")
    assert set(change.details["stored"]) == set(WEIGHTS)
    plain = graph.copy(model)
    for name in WEIGHTS:
        tensor = ir.tensor(rounded(name, nets.array(model, name)), name=name)
        plain.graph.initializers[name].const_value = tensor
    for one, other in zip(nets.outputs(plain, ids()), nets.outputs(made, ids()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cast_rounds_all_of_them(model: ir.Model) -> None:
    made, change = quantised(model, mode="cast")
    assert set(change.details["stored"]) == set(WEIGHTS)
    plain = graph.copy(model)
    for name in WEIGHTS:
        numbers = nets.array(model, name).astype(np.float16).astype(np.float32)
        plain.graph.initializers[name].const_value = ir.tensor(numbers, name=name)
    for one, other in zip(nets.outputs(plain, ids()), nets.outputs(made, ids()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("section", "kernel", "decibels"),
    [
        ({"mode": "cast", "compute": "fp16"}, "Cast", 55),
        ({"mode": "weight_only", "compute": "nbits"}, "MatMulNBits", 30),
        ({"mode": "dynamic"}, "DynamicQuantizeLSTM", 30),
    ],
)
def test_every_way_to_compute_takes_the_graph(
    model: ir.Model, section: dict[str, Any], kernel: str, decibels: float
) -> None:
    made, change = quantised(model, **section)
    assert kernel in change.details["kernels"]
    for one, other in zip(nets.outputs(model, ids()), nets.outputs(made, ids()), strict=True):
        assert nets.decibels(one, other) > decibels
    reasons = {entry["name"]: entry["reason"] for entry in change.skipped}
    if kernel != "Cast":
        assert reasons["head"] == "its weight is not a constant"  # the tied table, turned
        assert reasons["rnn"].startswith("GRU has no ")
