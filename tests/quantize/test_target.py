"""Files for OpenVINO. No device of it is offered here, so what is checked is what is written, and its numbers:
onnxruntime's DequantizeLinear against (q - z) * s of the tensors in the file, by numpy."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.encodings import Codes
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from mlcompress.quantize.target import UNTIMED, check_dequantized
from mlcompress.stages import find
from tests.quantize import nets

X = nets.rows(8).take(np.arange(8)).inputs


def recipe(measure: dict[str, Any] | None = None, **keys: Any) -> QuantizeRecipe:
    return QuantizeRecipe.model_validate(
        {"measure": measure or {}, "quantize": {"target": "openvino", **keys}}
    )


def by_hand(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """(q - z) * s of each DequantizeLinear of a constant, from the file's own tensors: by axis, or by blocks."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in held:
            continue
        given = {attribute.name: attribute.i for attribute in node.attribute}
        levels = held[node.input[0]].astype(np.float32)
        factors = [held[name].astype(np.float32) for name in node.input[1:]]
        axis = given.get("axis", 1)
        for place, factor in enumerate(factors):
            if "block_size" in given:
                factors[place] = np.repeat(factor, given["block_size"], axis=axis)
            elif factor.ndim:
                factors[place] = np.moveaxis(factor.reshape(-1, 1), 0, axis)
        zero = factors[1] if len(factors) > 1 else np.float32(0)
        found[node.output[0]] = (levels - zero) * factors[0]
    return found


FORMS = [
    ({"scheme": "int8"}, onnx.TensorProto.INT8, 0.05),
    ({"scheme": "int8", "granularity": "per_tensor"}, onnx.TensorProto.INT8, 0.05),
    ({"scheme": "int8", "symmetric": False}, onnx.TensorProto.UINT8, 0.05),
    ({"scheme": "int4"}, onnx.TensorProto.INT4, 0.3),
    ({"scheme": "int4", "granularity": "per_block", "block": 16}, onnx.TensorProto.INT4, 0.3),
    (
        {"scheme": "int4", "symmetric": False, "granularity": "per_block", "block": 16},
        onnx.TensorProto.UINT4,
        0.3,
    ),
    ({"scheme": "ternary"}, onnx.TensorProto.INT4, 1.0),
]


@pytest.mark.parametrize(("weights", "kind", "most"), FORMS, ids=lambda value: str(value)[:40])
def test_weights_are_dequantized(weights: dict[str, Any], kind: int, most: float) -> None:
    """The graph computes with the numbers that the file's own levels and scales give. `most`: relative error of
    a product with so many levels, loosely."""
    model = nets.perceptron()
    made, _ = run(model, recipe(mode="weight_only", weights=weights), Context(0))
    proto = onnx.load_from_string(graph.to_bytes(made))
    onnx.checker.check_model(proto, full_check=True)
    numbers = by_hand(proto)
    assert set(numbers) == {"one_weight", "two_weight", "three_weight"}
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    read = [node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    assert {kinds[name] for name in read} == {kind}
    x = X["x"].astype(np.float64)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    hidden = np.maximum(x @ numbers["one_weight"] + held["one_bias"], 0)
    scores = 0.5 * hidden @ numbers["two_weight"].T + 2.0 * held["two_bias"]
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    wanted = weight / weight.sum(axis=1, keepdims=True) @ numbers["three_weight"]
    found = nets.outputs(made, X, nets.Level.ORT_DISABLE_ALL)[0]
    # float32 against float64 through three layers
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    before = nets.outputs(model, X)[0]
    assert np.abs(found - before).max() <= most * np.abs(before).max()
    assert np.abs(found - before).max() > 0


@pytest.mark.parametrize("weights", [{}, {"scheme": "int4", "granularity": "per_block"}])
def test_convolutions_and_tables_are_decoded_at_load(weights: dict[str, Any]) -> None:
    made, _ = run(nets.residual(), recipe(mode="weight_only", weights=weights), Context(0))
    assert "DequantizeLinear" not in nets.ops(made)
    assert "Cast" in nets.ops(made)
    made, _ = run(nets.perceptron(), recipe(mode="weight_only", weights={"scheme": "codebook"}), Context(0))
    assert "DequantizeLinear" not in nets.ops(made)


def test_a_storage_that_is_named_is_what_is_written() -> None:
    made, _ = run(nets.perceptron(), recipe(mode="weight_only", storage="int8"), Context(0))
    assert "DequantizeLinear" not in nets.ops(made)


def test_for_the_cpu_nothing_is_dequantized_at_run_time() -> None:
    made, change = run(nets.perceptron(), recipe(mode="weight_only", target="cpu"), Context(0))
    assert "DequantizeLinear" not in nets.ops(made)
    assert change.details["target"].startswith("cpu: ")
    assert UNTIMED not in change.warnings


def test_static_products_are_written_as_quantisers() -> None:
    """MatMul stays a MatMul between Q/DQ; outputs are those of the file for the CPU but for rounding ties."""
    given = Context(0, calibration=nets.rows(64))
    keys = {"placement": "all", "rounding": "nearest", "bias_correction": False, "smooth": False}
    made, change = run(nets.perceptron(), recipe(**keys), given)
    other, _ = run(nets.perceptron(), recipe(target="cpu", **keys), given)
    assert "MatMulInteger" not in nets.ops(made)
    assert "MatMulInteger" in nets.ops(other)
    assert nets.ops(made).count("MatMul") == 1
    assert change.details["target"].startswith("openvino: ")
    found, wanted = (nets.outputs(one, X, nets.Level.ORT_DISABLE_ALL)[0] for one in (made, other))
    # A tie that is rounded the other way changes one input of the last product by a 255th of its range.
    assert np.abs(found - wanted).max() <= 0.01 * np.abs(wanted).max()


def test_it_is_said_that_the_speed_was_not_measured() -> None:
    untimed, timed = recipe(mode="weight_only"), recipe({"providers": ["openvino"]}, mode="weight_only")
    assert UNTIMED in run(nets.perceptron(), untimed, Context(0))[1].warnings
    assert UNTIMED not in run(nets.perceptron(), timed, Context(0))[1].warnings
    stage = find("quantize")
    assert not stage.must_not_be_slower(untimed)
    assert stage.must_not_be_slower(timed)
    assert stage.must_not_be_slower(recipe(target="cpu"))


def test_other_numbers_than_those_meant_are_refused() -> None:
    made, _ = run(nets.perceptron(), recipe(mode="weight_only"), Context(0))
    numbers = by_hand(onnx.load_from_string(graph.to_bytes(made)))
    right = {name: Codes(array) for name, array in numbers.items()}
    check_dequantized(made, right, X)
    wrong = {**right, "one_weight": Codes(numbers["one_weight"] * np.float32(1.01))}
    with pytest.raises(UnsupportedError, match="other numbers of one_weight"):
        check_dequantized(made, wrong, X)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"mode": "dynamic"}, "use `mode: static`"),
        ({"mode": "weight_only", "budget": {"max_bytes": 1000}}, "budget counts the bytes of `target: cpu`"),
        ({"placement": "measured"}, "times the CPU provider"),
    ],
)
def test_what_is_not_for_openvino(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        recipe(**keys)


def test_a_dequantized_file_is_no_input_for_quantising_again() -> None:
    made, _ = run(nets.perceptron(), recipe(mode="weight_only"), Context(0))
    with pytest.raises(UnsupportedError, match="quantised already"):
        run(
            ir.from_proto(onnx.load_from_string(graph.to_bytes(made))), recipe(mode="weight_only"), Context(0)
        )


def test_blocks_of_products_and_of_convolutions_in_one_file() -> None:
    """Operator set 18: blocks of DequantizeLinear need 21, also in the graph that convolutions are checked against."""
    rng = np.random.default_rng(0)
    model = nets.build(
        """
        g (float[n, 8, 3, 3] x) => (float[n, 32] y) {
            a = Conv (x, filters)
            b = Flatten (a)
            y = Gemm (b, matrix)
        }
        """,
        {"filters": nets.floats(rng, 32, 8, 3, 3), "matrix": nets.floats(rng, 32, 32)},
    )
    weights = {"scheme": "int4", "granularity": "per_block"}
    made, change = run(model, recipe(mode="weight_only", weights=weights), Context(0))
    assert change.details["stored"]["matrix"] == "dequantized int4"
    assert not change.details["stored"]["filters"].startswith("dequantized")
    assert made.opset_imports[""] == 21
