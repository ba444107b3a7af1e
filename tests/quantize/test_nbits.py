"""MatMulNBits: the file's own codes decoded by hand, against what onnxruntime computes with them."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.quantize.nbits import insert_nbits, nbits_obstacle, pack
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from mlcompress.quantize.schemes import schemes
from tests.quantize import nets

INNER, COLUMNS = 72, 40
"""72 is no multiple of a block: the last one is filled up."""


def product(body: str = "y = MatMul (x, w)", **weights: np.ndarray) -> ir.Model:
    return nets.build(f"g (float[m, {INNER}] x) => (float[m, {COLUMNS}] y) {{ [mm] {body} }}", weights)


def weight(*shape: int) -> np.ndarray:
    # Not centred: zero points matter.
    return nets.floats(np.random.default_rng(0), *shape, scale=0.1) + np.float32(0.05)


def rows() -> np.ndarray:
    """Activations that onnxruntime's own 8 bits (accuracy level 4) hold exactly: whole numbers up to 127."""
    x = np.random.default_rng(1).integers(-127, 128, (5, INNER)).astype(np.float32)
    x[:, ::16] = 127.0
    return x


def decoded(model: ir.Model) -> np.ndarray:
    """W [K, N] from the tensors in the file, by the op's definition."""
    node = next(node for node in model.graph if node.op_type == "MatMulNBits")
    bits, block, inner = (node.attributes[name].as_int() for name in ("bits", "block_size", "K"))
    codes, scales = (nets.array(model, str(value.name)) for value in node.inputs[1:3] if value is not None)
    columns = codes.shape[0]
    levels = unpacked(codes.reshape(columns, -1), bits).reshape(columns, -1, block)
    middle = np.full(levels.shape[:2], 2.0 ** (bits - 1))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        zeros = nets.array(model, str(node.inputs[3].name))
        middle = unpacked(zeros.reshape(columns, -1), bits)[:, : levels.shape[1]].astype(float)
    values = (levels - middle[:, :, None]) * scales.reshape(columns, -1, 1)
    return np.asarray(values.reshape(columns, -1)[:, :inner].T)


def unpacked(array: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return array.astype(int)
    return np.stack([array & 15, array >> 4], axis=-1).reshape(len(array), -1).astype(int)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_onnxruntime_computes_with_the_decoded_weight(scheme: str, block: int, symmetric: bool) -> None:
    before = product(w=weight(INNER, COLUMNS))
    made = graph.copy(before)
    done = insert_nbits(made, lambda node: True, schemes.choose(scheme), block=block, symmetric=symmetric)
    assert done == ["mm"]
    assert nets.ops(made) == ["MatMulNBits"]
    x, w = rows(), decoded(made)
    # Half a step of 4 bits is 1/14 of the largest weight; clipping by the best scale adds to it.
    span = np.abs(weight(INNER, COLUMNS)).max()
    assert np.abs(w - weight(INNER, COLUMNS)).max() < (0.3 if scheme == "int4" else 0.01) * span
    (y,) = nets.outputs(made, {"x": x})
    # Level 4 rounds activations to 8 bits per block: nothing is lost here, sums are float32.
    np.testing.assert_allclose(y, x.astype(float) @ w, rtol=1e-4, atol=1e-3 * np.abs(y).max())
    assert made.graph.node(0).attributes["accuracy_level"].as_int() == 4
    assert made.opset_imports["com.microsoft"] == 1


def test_zero_points_help_a_weight_that_is_not_centred() -> None:
    shifted = weight(INNER, COLUMNS) + np.float32(0.3)
    errors = []
    for symmetric in (True, False):
        made = product(w=shifted)
        insert_nbits(made, lambda node: True, schemes.choose("int4"), block=32, symmetric=symmetric)
        errors.append(np.square(decoded(made) - shifted).mean())
    assert errors[1] < 0.5 * errors[0]


def test_codes_are_packed_low_half_first() -> None:
    array = np.zeros((16, 1), np.float32)
    array[:3, 0] = [7.0, -7.0, 1.0]
    packed = pack(array, schemes.choose("int4", scale="max"), block=16, symmetric=True)
    assert packed.codes.shape == (1, 1, 8)
    assert packed.scales.tolist() == [1.0]
    assert packed.zeros is None
    assert packed.codes[0, 0, :3].tolist() == [15 | 1 << 4, 9 | 8 << 4, 8 | 8 << 4]


def test_zero_stays_zero() -> None:
    sparse = weight(INNER, COLUMNS) * (np.random.default_rng(2).random((INNER, COLUMNS)) > 0.5)
    for symmetric in (True, False):
        made = product(w=sparse)
        insert_nbits(made, lambda node: True, schemes.choose("int4"), block=32, symmetric=symmetric)
        assert (decoded(made)[sparse == 0] == 0).all()


@pytest.mark.parametrize("bias", [(COLUMNS,), (1,), (5, COLUMNS)])
def test_gemm_keeps_factors_and_bias(bias: tuple[int, ...]) -> None:
    c = nets.floats(np.random.default_rng(3), *bias)
    body = "y = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w, c)"
    made = product(body, w=weight(COLUMNS, INNER), c=c)
    insert_nbits(made, lambda node: True, schemes.choose("int8"), block=128)
    (y,) = nets.outputs(made, {"x": rows()})
    wanted = 0.5 * rows().astype(float) @ decoded(made) + 3.0 * c
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-3 * np.abs(wanted).max())


def test_readers_of_one_weight_share_its_codes() -> None:
    text = """
    g (float[m, 32] x) => (float[m, 32] y) {
        [one] a = MatMul (x, w)
        [two] b = Relu (a)
        [three] y = MatMul (b, w)
    }
    """
    made = nets.build(text, {"w": weight(32, 32)})
    insert_nbits(made, lambda node: True, schemes.choose("int8"), block=32)
    assert nets.ops(made) == ["MatMulNBits", "Relu", "MatMulNBits"]
    assert sorted(made.graph.initializers) == ["w_quantized", "w_scales"]
    half = nets.build(text, {"w": weight(32, 32)})
    assert insert_nbits(half, lambda node: node.name != "one", schemes.choose("int8"), block=32) == []
    assert list(half.graph.initializers) == ["w"]


@pytest.mark.parametrize(
    ("body", "inputs", "shape", "reason"),
    [
        ("y = MatMul (x, w)", "m, 4, 32", (4, 32, 32), "its weight has 3 axes, 2 are needed"),
        ("y = MatMul (w, x)", "32, m", (32, 32), "its input is a constant"),
        ("y = Gemm <transA = 1> (x, w)", "32, m", (32, 32), "its input is transposed"),
        ("y = MatMul (x, w)", "m, 8", (8, 8), "its weight has fewer than 256 elements"),
        ("y = Conv (x, w)", "m, 32, 8, 8", (32, 32, 1, 1), "Conv has no weight-only kernel"),
    ],
)
def test_obstacles(body: str, inputs: str, shape: tuple[int, ...], reason: str) -> None:
    outer = ", ".join("abcd"[: inputs.count(",") + 1])
    made = nets.build(f"g (float[{inputs}] x) => (float[{outer}] y) {{ [mm] {body} }}", {"w": weight(*shape)})
    assert (nbits_obstacle(made.graph.node(0)) or "").startswith(reason)
    assert insert_nbits(made, lambda node: True, schemes.choose("int8"), block=32) == []


def test_an_embedding_that_is_the_output_layer_stays_float() -> None:
    text = """
    g (int64[m] ids) => (float[m, 32] y) {
        [look] e = Gather (w, ids)
        [head] y = MatMul (e, w)
    }
    """
    made = nets.build(text, {"w": weight(32, 32)})
    assert nbits_obstacle(made.graph.node(1)) == "its weight is read by other ops or is a graph output"


def quantised(model: ir.Model, skip: tuple[str, ...] = (), **section: Any) -> tuple[ir.Model, Any]:
    recipe = QuantizeRecipe.model_validate(
        {"quantize": {"mode": "weight_only", "compute": "nbits"} | section, "skip": list(skip)}
    )
    return run(model, recipe, Context(seed=0))


def test_the_card_counts_kernels_and_says_what_stays() -> None:
    model = nets.perceptron()
    made, change = quantised(model, ("two",))
    assert change.details["kernels"]["MatMulNBits"] == 2
    assert change.details["integer"] == ["one", "three"]
    assert change.details["block"] == 128
    reasons = {entry["name"]: entry["reason"] for entry in change.skipped}
    assert reasons["two"] == "`skip` names it"
    assert change.summary.startswith("MatMulNBits int8: 1 Gemm, 1 MatMul")
    x = {"x": nets.floats(np.random.default_rng(1), 5, 32)}
    assert nets.decibels(nets.outputs(model, x)[0], nets.outputs(made, x)[0]) > 38
    with pytest.raises(UnsupportedError, match=r"quantised already .*MatMulNBits x 2"):
        quantised(made)


def test_other_weights_are_stored_and_a_graph_without_products_is_told() -> None:
    _, change = quantised(nets.residual())
    assert change.details["stored"] == {"body_weight": "int8"}
    assert change.warnings == ["quantize.compute: no MatMul or Gemm can be MatMulNBits: all compute in float"]


def test_single_layers_have_their_own_scheme() -> None:
    made, _ = quantised(nets.perceptron(), weights={"layers": {"two": "int4"}})
    nodes = [node for node in made.graph if node.op_type == "MatMulNBits"]
    assert [node.attributes["bits"].as_int() for node in nodes] == [8, 4, 8]


def test_a_scheme_without_a_kernel_is_only_stored() -> None:
    _, change = quantised(nets.perceptron(), weights={"layers": {"two": "ternary"}})
    assert change.details["integer"] == ["one", "three"]
    assert list(change.details["stored"]) == ["two_weight"]
    reasons = {entry["name"]: entry["reason"] for entry in change.skipped}
    assert reasons == {"two": "its weight has another scheme than int8 and int4"}


def test_the_same_bytes_twice() -> None:
    first, second = (quantised(nets.perceptron())[0] for _ in range(2))
    assert graph.to_bytes(first) == graph.to_bytes(second)
