"""A stored weight must decode to the same bits as the plain one, and cost nothing at run time."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.graph.encodings import Codes, encodings, store
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[n, 24] x) => (float[n, 40] y) {
    [first] h = MatMul (x, w)
    [second] y = Relu (h)
}
"""


def model_with(weight: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(proto)


def codes(name: str) -> Codes:
    rng = np.random.default_rng(0)
    if name == "int8":
        scale = rng.uniform(0.001, 0.1, (1, 40)).astype(np.float32)
        return Codes(rng.integers(-127, 128, (24, 40)).astype(np.int8), scale)
    values = rng.standard_normal((24, 40)).astype(np.float16 if name == "fp16" else np.float32)
    return Codes(values)


def executed(model: ir.Model, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Outputs for seeded inputs, and the ops that ran."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "run")
    session = ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((5, 24)).astype(np.float32)
    outputs = session.run(None, {"x": x})
    events = json.loads(Path(session.end_profiling()).read_text())
    return outputs[0], [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]


@pytest.mark.parametrize("name", list(encodings))
def test_bit_equal_to_plain_and_folded(name: str, tmp_path: Path) -> None:
    weight = codes(name)
    reference = model_with(weight.values())
    stored = model_with(np.zeros((24, 40), np.float32))
    store(Insertion(stored.graph), stored.graph.initializers["w"], weight, name)
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(stored)), full_check=True)
    expected, plain_ops = executed(reference, tmp_path)
    found, ops = executed(stored, tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert ops == plain_ops
    # Negative control: another weight gives other numbers.
    other = Codes(weight.stored[::-1].copy(), weight.scale)
    assert np.abs(other.values() - weight.values()).max() > 0.01


@pytest.mark.parametrize(("name", "share"), [("plain", 1.0), ("fp16", 0.5), ("int8", 0.25)])
def test_bytes(name: str, share: float) -> None:
    model = model_with(np.zeros((24, 40), np.float32))
    store(Insertion(model.graph), model.graph.initializers["w"], codes(name), name)
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    scales = 40 * 4 if name == "int8" else 0
    assert weights == 24 * 40 * 4 * share + scales


def test_the_decoded_tensor_keeps_the_name() -> None:
    model = model_with(np.zeros((24, 40), np.float32))
    store(Insertion(model.graph), model.graph.initializers["w"], codes("int8"), "int8")
    assert list(model.graph.initializers) == ["w_int8", "w_scale"]
    product = next(node for node in model.graph if node.name == "first")
    assert product.inputs[1] is not None
    assert product.inputs[1].name == "w"
    assert [node.name for node in model.graph] == ["w_float_Cast", "w_Mul", "first", "second"]


def test_loading_makes_the_weight_plain_again(tmp_path: Path) -> None:
    model = model_with(np.zeros((24, 40), np.float32))
    store(Insertion(model.graph), model.graph.initializers["w"], codes("int8"), "int8")
    graph.save(model, tmp_path / "stored.onnx")
    loaded = graph.load(tmp_path / "stored.onnx")
    assert [node.op_type for node in loaded.graph] == ["MatMul", "Relu"]
    tensor = loaded.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), codes("int8").values())


def test_the_same_bytes_twice() -> None:
    made = []
    for _ in range(2):
        model = model_with(np.zeros((24, 40), np.float32))
        store(Insertion(model.graph), model.graph.initializers["w"], codes("int8"), "int8")
        made.append(graph.to_bytes(model))
    assert made[0] == made[1]


def test_misuse_is_an_error() -> None:
    model = model_with(np.zeros((24, 40), np.float32))
    insertion = Insertion(model.graph)
    with pytest.raises(ValueError, match="not an initializer"):
        store(insertion, model.graph.inputs[0], codes("int8"), "int8")
    with pytest.raises(ValueError, match="needs a scale"):
        store(insertion, model.graph.initializers["w"], codes("plain"), "int8")


def test_numbers_of_an_input_are_replaced_for_its_reader_alone() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}, float one = {1}> {
        y = Add (x, w)
        k = Mul (x, w)
        z = Add (k, one)
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    add, multiply, last = model.graph
    insertion = Insertion(model.graph)
    insertion.set_input(add, 1, np.array([3, 4], np.float32), "w")
    insertion.set_input(last, 1, np.array([5, 6], np.float32), "unused")
    found = {name: constant(value) for name, value in model.graph.initializers.items()}
    expected = {"w": [1, 2], "w_1": [3, 4], "one": [5, 6]}
    assert {name: array.tolist() for name, array in found.items() if array is not None} == expected
    assert [node.inputs[1].name for node in (add, multiply, last)] == ["w_1", "w", "one"]
    assert model.graph.initializers["one"].shape == (2,)


def test_constants_are_what_nobody_can_replace() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[2] x, float[2] v) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {3, 4}> {
        k = Add (x, v)
        y = Add (k, w)
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    first, second = model.graph
    assert constant(first.inputs[1]) is None  # an input with a default
    assert constant(second.inputs[0]) is None
    assert constant(None) is None
    np.testing.assert_array_equal(constant(second.inputs[1]), [3, 4])


def test_fresh_names_avoid_nodes_values_and_sub_graphs() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (bool c, float[n] x) => (float[n] y) {
        y = If (c) <
            then_branch = t () => (float[n] p) { p = Relu (x) },
            else_branch = e () => (float[n] q) { q = Neg (x) }
        >
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    insertion = Insertion(model.graph)
    assert [insertion.fresh(name) for name in ("x", "y", "p", "q", "z", "z")] == [
        "x_1",
        "y_1",
        "p_1",
        "q_1",
        "z",
        "z_1",
    ]
