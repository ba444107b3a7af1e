import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.quantize.cast import channel_axes, store_weights
from mlcompress.quantize.weights import quantised
from tests.quantize import nets

TEXT = """
g (int64[n] ids, float[n, 32] x) => (float[n, 32] y, float[n, 32] s) {
    [look] e = Gather (table, ids)
    [sum] a = Add (e, x)
    [first] b = MatMul (a, m)
    [second] y = Gemm <transB = 1> (b, g, c)
    [mask] s = Mul (x, k)
}
"""


def model() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {name: nets.floats(rng, 32, 32) for name in ("table", "m", "g")}
    return nets.build(
        TEXT, weights | {"c": nets.floats(rng, 300)[:32], "k": nets.floats(rng, 1, 1024)[:, :32]}
    )


def feed() -> nets.Arrays:
    return {"ids": np.arange(5), "x": nets.floats(np.random.default_rng(1), 5, 32)}


def test_int8_is_bit_equal_to_its_decoded_values() -> None:
    before = model()
    stored = graph.copy(before)
    result = store_weights(stored, "int8", before.graph.initializers)
    assert result.forms == {"table": "int8", "m": "int8", "g": "int8"}
    plain = graph.copy(before)
    for name, axis in (("table", 0), ("m", 1), ("g", 0)):
        codes, scales = quantised(nets.array(before, name), (axis,))
        values = codes.astype(np.float32) * scales
        plain.graph.initializers[name].const_value = ir.tensor(values, name=name)
    for one, other in zip(nets.outputs(plain, feed()), nets.outputs(stored, feed()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert nets.decibels(nets.outputs(before, feed())[0], nets.outputs(stored, feed())[0]) > 35
    assert not np.array_equal(nets.outputs(before, feed())[0], nets.outputs(stored, feed())[0])


def test_fp16_is_the_rounded_weight() -> None:
    before = model()
    stored = graph.copy(before)
    result = store_weights(stored, "fp16", before.graph.initializers)
    assert set(result.forms.values()) == {"fp16"}
    halves = [a for a in map(np.asarray, initial(stored)) if a.dtype == np.float16]
    assert any(np.array_equal(a, nets.array(before, "m").astype(np.float16)) for a in halves)
    assert nets.decibels(nets.outputs(before, feed())[0], nets.outputs(stored, feed())[0]) > 65
    assert len(graph.to_bytes(stored)) < 0.6 * len(graph.to_bytes(before))


def initial(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]


def test_axes_follow_the_reader() -> None:
    found = {name: channel_axes(value) for name, value in model().graph.initializers.items()}
    assert found["table"] == (0,)
    assert found["m"] == (1,)
    assert found["g"] == (0,)


def test_what_is_kept_and_why() -> None:
    before = nets.build(
        "g (float[n, 32] x) => (float[n, 32] y, float[n, 32] z) { [a] y = MatMul (x, w) [b] z = Mul (y, big) }",
        {"w": nets.floats(np.random.default_rng(0), 32, 32), "big": np.full((16, 32), 1e6, np.float32)},
    )
    # `big` has more rows than a batch of one: only its numbers matter here.
    reasons = {}
    for form in ("int8", "fp16"):
        copy = graph.copy(before)
        keep = [node for node in copy.graph if node.name == "a"]
        result = store_weights(copy, form, before.graph.initializers, keep=keep)
        assert result.forms == {}
        reasons[form] = {entry["name"]: entry["reason"] for entry in result.skipped}
        assert graph.to_bytes(copy) == graph.to_bytes(before)
    assert reasons["int8"] == {
        "w": "kept in float by `skip` or for accuracy",
        "big": "not only a weight: so few bits may be too few for its other use",
    }
    assert "65504" in reasons["fp16"]["big"]


def test_plain_changes_nothing() -> None:
    before = model()
    copy = graph.copy(before)
    assert store_weights(copy, "plain", before.graph.initializers).forms == {}
    assert graph.to_bytes(copy) == graph.to_bytes(before)


@pytest.mark.parametrize("form", ["int8", "fp16"])
def test_only_listed_initializers_are_stored(form: str) -> None:
    copy = model()
    assert store_weights(copy, form, ["m"]).forms == {"m": form}


@pytest.mark.parametrize("adds_to", ["e", "x"])
def test_rows_added_to_looked_up_ones_are_position_embeddings(adds_to: str) -> None:
    """Other tables that are sliced and added may be masks."""
    text = f"""
    g (int64[n] ids, float[n, 32] x, int64[1] stop) => (float[n, 32] y, float[n, 32] e) {{
        e = Gather (table, ids)
        start = Constant<value = int64[1] {{{{0}}}}>()
        rows = Slice (places, start, stop, start)
        y = Add (rows, {adds_to})
    }}
    """.replace("{{", "{").replace("}}", "}")
    rng = np.random.default_rng(0)
    made = nets.build(text, {name: nets.floats(rng, 32, 32) for name in ("table", "places")})
    forms = store_weights(made, "int8", list(made.graph.initializers)).forms
    assert ("places" in forms) == (adds_to == "e")
    assert "table" in forms
