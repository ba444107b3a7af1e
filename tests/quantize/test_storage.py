"""Fewer bytes, the same bits: what integer kernels read, and what is decoded to float."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.session import Level, session
from mlcompress.measure.stored import check_stored
from mlcompress.quantize.encode import encode
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from mlcompress.quantize.schemes import schemes
from mlcompress.quantize.storage import compress
from mlcompress.quantize.weights import INTEGER_SCHEMES, quantised
from tests.quantize import nets

LEVELS = (Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL)


def wide(density: float = 1.0) -> ir.Model:
    """A Conv and a Gemm of some size, of which a share of weights is not zero."""
    rng = np.random.default_rng(0)
    weights = {"c": nets.floats(rng, 32, 16, 3, 3, scale=0.1), "f": nets.floats(rng, 24, 512, scale=0.1)}
    weights = {name: np.where(rng.random(w.shape) < density, w, np.float32(0)) for name, w in weights.items()}
    text = """
        g (float[batch, 16, 6, 6] image) => (float[batch, 24] y) {
            [conv] h = Conv (image, c, b)
            [relu] r = Relu (h)
            [flat] t = Flatten (r)
            [fc] y = Gemm <transB = 1> (t, f, d)
        }
    """
    return nets.build(text, weights | {"b": nets.floats(rng, 32), "d": nets.floats(rng, 24)})


def images() -> Any:
    from mlcompress.data.dataset import from_arrays

    return from_arrays({"image": nets.floats(np.random.default_rng(1), 16, 16, 6, 6)})


def quantised_model(
    model: ir.Model, section: dict[str, Any], skip: tuple[str, ...] = (), feed: nets.Arrays | None = None
) -> tuple[ir.Model, Change]:
    recipe = QuantizeRecipe.model_validate({"quantize": section, "skip": list(skip)})
    data = images() if section.get("mode", "static") == "static" else None
    return run(model, recipe, Context(0, calibration=data, feed=feed))


def same_bits(one: ir.Model, other: ir.Model, feed: nets.Arrays) -> bool:
    pairs = [
        (a, b)
        for level in LEVELS
        for a, b in zip(nets.outputs(one, feed, level), nets.outputs(other, feed, level), strict=True)
    ]
    return all(np.array_equal(a, b) for a, b in pairs)


IMAGE = {"image": nets.floats(np.random.default_rng(2), 3, 16, 6, 6)}
STATIC = {"placement": "all"}


@pytest.mark.parametrize("scheme", INTEGER_SCHEMES)
def test_static_computes_every_scheme_with_integers(scheme: str) -> None:
    section = STATIC | {"weights": {"scheme": scheme}, "rounding": "nearest", "bias_correction": False}
    plain, _ = quantised_model(wide(), section | {"storage": "plain"})
    stored, change = quantised_model(wide(), section)
    assert same_bits(plain, stored, IMAGE)
    assert change.details["kernels"] == nets.kernels(plain, IMAGE)
    assert change.details["kernels"]["QLinearConv"] == 1
    assert change.details["kernels"]["QGemm"] == 1
    expected, _ = quantised(nets.array(wide(), "c"), (0,), scheme)
    np.testing.assert_array_equal(nets.array(plain, "c"), expected)
    before, after = len(graph.to_bytes(plain)), len(graph.to_bytes(stored))
    bits = {"int8": 8, "fixed_point": 8, "binary": 1, "ternary": 1.6, "int2": 1.6}.get(scheme, 4)
    # 2.3 kB of signature, biases, scales and nodes beside the 16,896 weights.
    assert after < 16896 * bits / 8 + 4300
    assert (after < 0.8 * before) == (bits < 8)


@pytest.mark.parametrize("scheme", ["int8", "int4", "ternary", "codebook"])
def test_dynamic_computes_schemes_with_integers(scheme: str) -> None:
    feed = {"x": nets.rows(4).take(np.arange(4)).inputs["x"]}
    section = {"mode": "dynamic", "weights": {"scheme": scheme}}
    plain, _ = quantised_model(nets.perceptron(), section | {"storage": "plain"})
    stored, change = quantised_model(nets.perceptron(), section)
    assert same_bits(plain, stored, feed)
    assert change.details["kernels"]["DynamicQuantizeMatMul"] >= 2
    assert change.details["kernels"] == nets.kernels(plain, feed)
    assert (len(graph.to_bytes(stored)) < len(graph.to_bytes(plain))) == (scheme != "int8")


@pytest.mark.parametrize("storage", ["auto", "bitmask", "relative", "rice"])
def test_pruned_weights_are_smaller_and_still_integers(storage: str) -> None:
    plain, _ = quantised_model(wide(0.1), STATIC | {"storage": "plain"})
    stored, change = quantised_model(wide(0.1), STATIC | {"storage": storage})
    assert same_bits(plain, stored, IMAGE)
    assert change.details["kernels"]["QLinearConv"] == 1
    forms = change.details["stored"]
    assert set(forms) == {"c", "f"}
    assert all(form.startswith(("bitmask", "relative", "rice")) for form in forms.values())
    # 16,896 weights at 1.8 bits or less, instead of 8.
    assert len(graph.to_bytes(plain)) - len(graph.to_bytes(stored)) > 16896 * 6 / 8 - 1500
    # Negative control: the same net with nothing pruned.
    _, other = quantised_model(wide(), STATIC)
    assert other.details["stored"] == {}


def test_sparse_positions_with_a_codebook_and_integer_kernels() -> None:
    section = STATIC | {"weights": {"scheme": "codebook"}}
    plain, _ = quantised_model(wide(0.1), section | {"storage": "plain"})
    stored, change = quantised_model(wide(0.1), section)
    assert same_bits(plain, stored, IMAGE)
    assert change.details["stored"]["f"] in ("relative x codebook", "bitmask x codebook", "rice x codebook")
    values = np.unique(nets.array(plain, "f"))
    assert len(values) <= 16
    assert 0 in values
    eight_bits, _ = quantised_model(wide(0.1), STATIC)
    assert len(graph.to_bytes(stored)) < 0.9 * len(graph.to_bytes(eight_bits))


def test_integers_that_do_not_fit_stay_plain_and_say_so() -> None:
    plain, _ = quantised_model(wide(), STATIC | {"storage": "plain"})
    copy = graph.copy(plain)
    result = compress(copy, "int4")
    assert result.forms == {}
    assert [entry["reason"] for entry in result.skipped] == [
        "stored plainly, not as int4: its levels need more than 4 bits"
    ] * 2
    assert graph.to_bytes(copy) == graph.to_bytes(plain)


def test_scales_of_biases_are_computed_at_load() -> None:
    """Four bytes a channel less; a bias whose scale is another one keeps it."""
    plain, _ = quantised_model(wide(), STATIC | {"storage": "plain"})
    for altered in (False, True):
        model = graph.copy(plain)
        if altered:
            for name in ("b_scale", "d_scale"):
                model.graph.initializers[name].const_value = ir.tensor(nets.array(model, name) * 2, name=name)
        expected = graph.copy(model)
        result = compress(model)
        assert result.forms == {}
        assert set(result.codes) == (set() if altered else {"b_scale", "d_scale"})
        assert same_bits(expected, model, IMAGE)
        check_stored(model, result.codes, IMAGE)


OPS = """
g (int64[n] ids, float[n, 16, 5] s, float[n, 16, 4, 4] p) => (float[n, 32] e, float[m, n, k] l, float[n, 8, a, b] d) {
    [look] e = Gather (table, ids)
    [time] t = Transpose <perm = [2, 0, 1]> (s)
    [cell] l4, h = LSTM <hidden_size = 12> (t, lw, lr)
    [squeeze] l = Squeeze (l4, one)
    [up] d = ConvTranspose (p, cw)
}
"""


def many_ops() -> ir.Model:
    rng = np.random.default_rng(0)
    shapes = {"table": (60, 32), "lw": (1, 48, 16), "lr": (1, 48, 12), "cw": (16, 8, 3, 3)}
    weights = {name: nets.floats(rng, *shape, scale=0.3) for name, shape in shapes.items()}
    return nets.build(OPS, weights | {"one": np.array([1])})


FEED = {
    "ids": np.array([3, 0, 59]),
    "s": nets.floats(np.random.default_rng(3), 3, 16, 5),
    "p": nets.floats(np.random.default_rng(4), 3, 16, 4, 4),
}
AXES = {"table": (0,), "lw": (0, 1), "lr": (0, 1), "cw": (1,)}


def with_values(model: ir.Model, weights: nets.Arrays) -> ir.Model:
    made = graph.copy(model)
    for name, array in weights.items():
        made.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return made


@pytest.mark.parametrize(
    ("scheme", "granularity"),
    [
        (scheme, granularity)
        for scheme in schemes
        for granularity in ("per_channel", "per_tensor", "per_block")
        if granularity == "per_channel" or scheme not in ("fp16", "bf16")  # which have no scales
    ],
)
def test_weight_only_decodes_every_scheme(scheme: str, granularity: str) -> None:
    block = {"block": 8} if granularity == "per_block" else {}
    section = {"mode": "weight_only", "weights": {"scheme": scheme, "granularity": granularity} | block}
    before = many_ops()
    stored, change = quantised_model(before, section)
    assert set(change.details["stored"]) == set(AXES)
    decoded = {
        name: encode(
            nets.array(before, name),
            () if granularity == "per_tensor" else axes,
            scheme,
            block=block.get("block"),
        ).values()
        for name, axes in AXES.items()
    }
    assert same_bits(with_values(before, decoded), stored, FEED)
    assert len(graph.to_bytes(stored)) < len(graph.to_bytes(before))
    for name, array in decoded.items():
        assert array.shape == nets.array(before, name).shape
        assert not np.array_equal(array, nets.array(before, name))


@pytest.mark.parametrize("scheme", ["int8", "int4", "int2"])
def test_zero_points_decode(scheme: str) -> None:
    section = {"mode": "weight_only", "weights": {"scheme": scheme, "symmetric": False}}
    before = many_ops()
    stored, _ = quantised_model(before, section)
    decoded = {
        name: encode(nets.array(before, name), axes, scheme, symmetric=False).values()
        for name, axes in AXES.items()
    }
    assert same_bits(with_values(before, decoded), stored, FEED)


@pytest.mark.parametrize(
    ("axes", "shape", "block", "scales"),
    [
        ((0,), (6, 4, 4), 8, (6, 2, 1)),
        ((0,), (6, 27), 8, (6, 1, 1)),  # no divisor of 27 from 4 to 8: the whole row
        ((0,), (6, 24), 32, (6, 1, 1)),
        ((1,), (24, 10), 8, (3, 1, 10)),
        ((0, 1), (1, 6, 20), 5, (1, 6, 4, 1)),
    ],
)
def test_blocks(axes: tuple[int, ...], shape: tuple[int, ...], block: int, scales: tuple[int, ...]) -> None:
    weight = nets.floats(np.random.default_rng(0), *shape)
    codes = encode(weight, axes, "int8", block=block)
    assert codes.scale is not None
    assert codes.scale.shape == scales
    np.testing.assert_array_equal(codes.scale, codes.scale.astype(np.float16))
    steps = np.broadcast_to(codes.scale, codes.stored.shape).reshape(shape)
    # fp16 scales are up to .05 % too small for 127 steps.
    assert np.abs(codes.values() - weight).max() <= 0.57 * steps.max()
    assert np.abs((codes.values() - weight) / steps).max() <= 0.57


def test_a_type_that_the_operator_set_lacks_says_so() -> None:
    rng = np.random.default_rng(0)
    text = "g (float[n, 32] x) => (float[n, 32] y) { y = MatMul (x, w) }"
    old = nets.build(text, {"w": nets.floats(rng, 32, 32)}, opset=13)
    section = {"mode": "weight_only", "weights": {"scheme": "int4"}}
    with pytest.raises(UnsupportedError, match="nothing in this model can be quantised"):
        quantised_model(old, section | {"storage": "int4"})
    made, change = quantised_model(old, section)
    assert made.opset_imports[""] == 13
    assert change.details["stored"] == {"w": "codebook"}
    new = nets.build(text, {"w": nets.floats(rng, 32, 32)}, opset=18)
    made, change = quantised_model(new, section)
    assert (made.opset_imports[""], change.details["stored"]) == (21, {"w": "int4"})


@pytest.mark.parametrize(
    "section", [{"mode": "weight_only"}, {"mode": "cast", "weights": {"scheme": "fp16"}}]
)
def test_weights_in_bodies_are_stored_and_folded(section: dict[str, Any]) -> None:
    """The chains lie in the main graph, where they are folded; a Loop that `skip` names stays as it is."""
    text = """
        g (bool c, float[n, 32] x) => (float[n, 32] y) <int64 m = {3}> {
            h = MatMul (x, w)
            z = If (c) <
                then_branch = t () => (float[n, 32] p) { p = MatMul (h, v) },
                else_branch = e () => (float[n, 32] q) { r = MatMul (h, v2)  q = Neg (r) }
            >
            [kept] y = Loop (m, , z) <
                body = b (int64 i, bool k, float[n, 32] s) => (bool go, float[n, 32] u)
                    { go = Identity (k)  u = MatMul (s, l) }
            >
        }
    """
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>{text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(nets.floats(rng, 32, 32), "w"))
    bodies = [attribute.g for node in proto.graph.node for attribute in node.attribute]
    for body, name in zip(bodies, ("v", "v2", "l"), strict=True):
        body.initializer.append(onnx.numpy_helper.from_array(nets.floats(rng, 32, 32) / 6, name))
    data = proto.SerializeToString()
    # Raises where a chain is decoded at an inference; the profiled run takes the branch of the example feed.
    for chosen in (True, False):
        feed = {"c": np.array(chosen), "x": rng.standard_normal((2, 32)).astype(np.float32)}
        made, change = quantised_model(ir.from_proto(onnx.load_from_string(data)), section, ("kept",), feed)
        assert set(change.details["stored"]) == {"w", "v", "v2"}
        assert {"name": "l", "reason": "inside an If, Loop or Scan: left as it is"} in change.skipped
        assert change.details["kernels"]["MatMul"] == 1 + 1 + 3
        wanted = session(data).run(None, feed)[0]
        found = session(graph.to_bytes(made)).run(None, feed)[0]
        # int8 of Gaussian weights: 0.6 % of noise in each of five products.
        assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)
        assert not np.array_equal(found, wanted)
