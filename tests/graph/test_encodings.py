"""A stored weight must decode to the same bits as the plain one, and cost nothing at run time."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.graph.encodings import (
    Chains,
    Codes,
    UnfitError,
    encodings,
    highest_opset,
    store,
    store_smallest,
)
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.graph.session import LARGEST_FOLDED

ROWS, COLUMNS = 24, 41
TEXT = """
<ir_version: 8, opset_import: ["" : %d]>
g (float[n, 24] x) => (float[n, 41] y) {
    [first] h = MatMul (x, w)
    [second] y = Relu (h)
}
"""
X = {"x": np.random.default_rng(1).standard_normal((5, ROWS)).astype(np.float32)}
LEVELS = (ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def model_with(weight: np.ndarray, opset: int = 18) -> ir.Model:
    proto = onnx.parser.parse_model(TEXT % opset)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(proto)


def levels(kind: str) -> np.ndarray:
    """Seeded levels [24, 41] of one kind."""
    rng, shape = np.random.default_rng(0), (ROWS, COLUMNS)
    kept = rng.random(shape) < 0.15
    made = {
        "int8": rng.integers(-127, 128, shape).astype(np.int8),
        "int4": rng.integers(-8, 8, shape).astype(np.int8),
        "uint4": rng.integers(0, 16, shape).astype(np.uint8),
        "int2": rng.integers(-2, 2, shape).astype(np.int8),
        "uint2": rng.integers(0, 4, shape).astype(np.uint8),
        "ternary": rng.integers(-1, 2, shape).astype(np.int8),
        "binary": (2 * rng.integers(0, 2, shape) - 1).astype(np.int8),
        "powers": (2 ** rng.integers(0, 7, shape) * rng.choice([-1, 1], shape)).astype(np.int8),
        "skewed": np.clip(np.rint(rng.laplace(0, 6, shape)), -127, 127).astype(np.int8),
        "fp16": rng.standard_normal(shape).astype(np.float16),
        "bf16": rng.standard_normal(shape).astype(ml_dtypes.bfloat16),
        "float": rng.standard_normal(shape).astype(np.float32),
        "sparse int8": np.where(kept, rng.integers(1, 128, shape), 0).astype(np.int8),
        "sparse fp16": np.where(kept, rng.standard_normal(shape), 0).astype(np.float16),
    }
    for count in (1, 3, 6, 12, 30, 60, 100, 200):  # 1, 2, 3, 4, 5, 6, 7, 8 bits
        made[f"{count} floats"] = rng.standard_normal(count).astype(np.float32)[rng.integers(0, count, shape)]
    made["sparse floats"] = np.where(kept, made["12 floats"], np.float32(0))
    return made[kind]


def codes(kind: str) -> Codes:
    """Levels, with a scale for each column and a zero point where they are to have them."""
    rng, stored = np.random.default_rng(2), levels(kind)
    if stored.dtype not in (np.int8, np.uint8):
        return Codes(stored)
    scale = rng.uniform(0.001, 0.1, (1, COLUMNS)).astype(np.float32)
    zero = rng.integers(0, 4, (1, COLUMNS)).astype(np.uint8) if stored.dtype == np.uint8 else None
    return Codes(stored, scale, zero)


def powers_of_two() -> Codes:
    return Codes(levels("int8"), np.exp2(-np.arange(COLUMNS, dtype=np.float32) % 5)[None])


FITTING = {
    "plain": ("int8", "float"),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "int8": ("int8", "uint4"),
    "int4": ("int4", "ternary"),
    "uint4": ("uint4",),
    "int2": ("int2", "ternary"),
    "uint2": ("uint2",),
    "packed": (
        "1 floats",
        "3 floats",
        "6 floats",
        "30 floats",
        "60 floats",
        "100 floats",
        "binary",
        "ternary",
        "int4",
    ),
    "codebook": ("3 floats", "12 floats", "30 floats", "200 floats", "powers"),
    "frequent": ("skewed",),
    "fixed_point": (),
    "log": ("powers",),
    "bitmask": ("sparse int8", "sparse fp16", "sparse floats", "ternary"),
    "relative": ("sparse int8", "sparse fp16", "sparse floats", "skewed"),
    "rice": ("sparse int8", "sparse fp16", "sparse floats", "skewed"),
    "auto": ("int8", "int4", "ternary", "binary", "sparse int8", "sparse floats", "uint2", "float"),
}


CASES = [(encoding, kind) for encoding, kinds in FITTING.items() for kind in kinds]


def executed(
    model: ir.Model, folder: Path, level: ort.GraphOptimizationLevel
) -> tuple[np.ndarray, list[str]]:
    """Outputs for seeded inputs, and the ops that ran."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "run")
    options.log_severity_level = 3
    session = ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, X)
    events = json.loads(Path(session.end_profiling()).read_text())
    return outputs[0], [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]


def stored_model(weight: Codes, encoding: str, opset: int = 18) -> tuple[ir.Model, str]:
    model = model_with(np.zeros((ROWS, COLUMNS), np.float32), opset)
    form = store(Chains(model, highest_opset(encoding)), model.graph.initializers["w"], weight, encoding)
    return model, form


def check_expands(weight: Codes, encoding: str, opset: int, folder: Path) -> ir.Model:
    """Bit-equal outputs and the same kernels as the plain values, at both levels. Gives the stored model."""
    model, _ = stored_model(weight, encoding, opset)
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(model)), full_check=True)
    for level in LEVELS:
        expected, plain_ops = executed(model_with(weight.values(), opset), folder, level)
        found, ops = executed(model, folder, level)
        np.testing.assert_array_equal(found, expected)
        assert ops == plain_ops
        assert expected.any()
    return model


def test_every_encoding_has_a_case() -> None:
    assert set(FITTING) == {"auto", *encodings}


@pytest.mark.parametrize(("encoding", "kind"), CASES)
def test_bit_equal_to_plain_and_folded(encoding: str, kind: str, tmp_path: Path) -> None:
    check_expands(codes(kind), encoding, 18, tmp_path)


def test_fixed_point_is_bit_equal_to_plain_and_folded(tmp_path: Path) -> None:
    check_expands(powers_of_two(), "fixed_point", 18, tmp_path)


def test_scales_are_stored_in_few_bytes_where_few_differ() -> None:
    sizes = []
    for scale in (np.exp2(-np.arange(1000) % 5), np.arange(1, 1001) / 1000):
        stored = np.zeros((2, 1000), np.int8)
        stored[1] = 1
        model = model_with(stored.astype(np.float32))
        store(
            Chains(model),
            model.graph.initializers["w"],
            Codes(stored, scale[None].astype(np.float32)),
            "int8",
        )
        sizes.append(len(graph.to_bytes(model)))
    # 4 bits and a table for one, 32 bits for the other; 150 bytes for the nodes.
    assert sizes[1] - sizes[0] > 1000 * (32 - 4) / 8 - 150


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 25])
@pytest.mark.parametrize("kind", ["int4", "ternary", "60 floats", "sparse int8", "sparse floats"])
def test_auto_in_every_operator_set(opset: int, kind: str, tmp_path: Path) -> None:
    model = check_expands(codes(kind), "auto", opset, tmp_path)
    assert model.opset_imports[""] == (21 if opset == 18 and has_four_bits(model) else opset)


def has_four_bits(model: ir.Model) -> bool:
    small = (ir.DataType.INT4, ir.DataType.UINT4)
    return any(value.dtype in small for value in model.graph.initializers.values())


def test_the_operator_set_is_raised_for_a_type_and_only_then() -> None:
    assert stored_model(codes("int4"), "int4")[0].opset_imports[""] == 21
    assert stored_model(codes("int8"), "auto")[0].opset_imports[""] == 18
    assert stored_model(codes("int2"), "int2")[0].opset_imports[""] == 25
    # Reduce* and others mean something else before 18: packed bits instead.
    model, form = stored_model(codes("int4"), "auto", 13)
    assert (form, model.opset_imports[""]) == ("codebook", 13)
    with pytest.raises(UnfitError, match="need operator set 21, the model has 13"):
        stored_model(codes("int4"), "int4", 13)


@pytest.mark.parametrize(
    ("encoding", "kind", "reason"),
    [
        ("int8", "float", "needs integers and a scale"),
        ("fp16", "float", "no fp16 numbers"),
        ("bf16", "fp16", "no bf16 numbers"),
        ("int4", "int8", "more than 4 bits"),
        ("int2", "int4", "more than 2 bits"),
        ("uint4", "int4", "its levels are signed"),
        ("codebook", "float", "984 distinct levels; a table holds 256"),
        ("packed", "fp16", "distinct levels"),
        ("frequent", "ternary", "too few distinct levels"),
        ("fixed_point", "int8", "scales that are powers of two"),
        ("log", "int8", "levels that are powers of two"),
        ("relative", "binary", "it has no zeros"),
        ("bitmask", "float", "it has no zeros"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(encoding: str, kind: str, reason: str) -> None:
    model = model_with(np.zeros((ROWS, COLUMNS), np.float32))
    before = graph.to_bytes(model)
    with pytest.raises(UnfitError, match=reason):
        store(Chains(model, 25), model.graph.initializers["w"], codes(kind), encoding)
    assert graph.to_bytes(model) == before


def test_a_tensor_that_is_not_folded_is_refused() -> None:
    model = model_with(np.zeros((ROWS, COLUMNS), np.float32))
    large = np.broadcast_to(np.int8(1), (LARGEST_FOLDED // 4 + 1,))  # no memory behind it
    with pytest.raises(UnfitError, match="more than 1 GiB"):
        store(Chains(model), model.graph.initializers["w"], Codes(large, np.ones(1, np.float32)), "int8")


@pytest.mark.parametrize(
    ("kind", "forms"),
    [
        ("int8", {"int8"}),
        ("int4", {"int4"}),
        ("ternary", {"int4", "packed"}),
        ("binary", {"codebook"}),
        ("fp16", {"fp16"}),
        ("bf16", {"bf16"}),
        ("float", {"plain"}),
        ("sparse int8", {"relative", "bitmask"}),
        ("sparse floats", {"codebook"}),  # positions do not pay in so small a tensor
    ],
)
def test_auto_is_the_smallest_of_all(kind: str, forms: set[str]) -> None:
    model, form = stored_model(codes(kind), "auto")
    assert form in forms
    sizes = {}
    for encoding in encodings:
        try:
            sizes[encoding] = len(graph.to_bytes(stored_model(codes(kind), encoding)[0]))
        except UnfitError:
            continue
    for unasked in ("int2", "uint2"):  # they take operator set 25
        sizes.pop(unasked, None)
    assert len(graph.to_bytes(model)) <= min(sizes.values())


@pytest.mark.parametrize(
    ("encoding", "count", "bits"),
    [
        *[
            ("packed", count, bits)
            for count, bits in ((2, 1), (3, 1.6), (4, 2), (8, 3), (16, 4), (32, 5), (64, 6))
        ],
        *[("codebook", count, bits) for count, bits in ((2, 1), (4, 2), (8, 3), (16, 4), (128, 7), (256, 8))],
        ("int8", 256, 8),
        ("int4", 16, 4),
        ("int2", 4, 2),
    ],
)
def test_bits_of_a_weight(encoding: str, count: int, bits: float) -> None:
    rng = np.random.default_rng(0)
    stored = (rng.integers(0, count, (64, 1024)) - count // 2).astype(np.int8)
    model = model_with(stored.astype(np.float32))
    store(Chains(model, 25), model.graph.initializers["w"], Codes(stored, np.float32([[0.5]])), encoding)
    # Table, nodes and signature: 2,400 bytes are .3 bits.
    assert bits <= 8 * len(graph.to_bytes(model)) / stored.size < bits + 0.3


def test_bits_of_a_sparse_weight() -> None:
    """90 % zeros: gaps of 4 bits, of which .26 for each kept one are fillers; kept values of 8 and of 4 bits."""
    rng = np.random.default_rng(0)
    kept = rng.random((256, 1024)) < 0.1
    sizes = {}
    for count in (254, 15):
        numbers = rng.integers(1, count + 1, kept.shape) - count // 2 - 1
        stored = np.where(kept, np.where(numbers == 0, 1, numbers), 0).astype(np.int8)
        for encoding in ("relative", "bitmask", "auto"):
            model = model_with(stored.astype(np.float32))
            form = store(
                Chains(model), model.graph.initializers["w"], Codes(stored, np.float32([[1]])), encoding
            )
            sizes[count, encoding] = 8 * len(graph.to_bytes(model)) / stored.size
            assert encoding != "auto" or form.startswith(("relative", "rice"))
    # .04 bits are 1,300 bytes.
    assert 0.1 * (8 + 4 * 1.26) < sizes[254, "relative"] < 0.1 * (8 + 4 * 1.26) + 0.04
    assert 1 + 0.1 * 8 < sizes[254, "bitmask"] < 1 + 0.1 * 8 + 0.04
    assert 0.1 * (4 + 4 * 1.26) < sizes[15, "relative"] < 0.1 * (4 + 4 * 1.26) + 0.04
    assert sizes[15, "auto"] <= sizes[15, "relative"] < sizes[15, "bitmask"]


def test_rice_codes_come_close_to_the_entropy(tmp_path: Path) -> None:
    """Normal numbers, 10 % of them kept, as int8: .469 bits for the positions, and what the values have."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((ROWS, 20000))
    scale = np.abs(numbers).max(axis=1, keepdims=True) / 127
    kept = np.abs(numbers) > np.quantile(np.abs(numbers), 0.9)
    stored = np.where(kept, np.rint(numbers / scale), 0).astype(np.int8)
    weight = Codes(stored, scale.astype(np.float32))
    proto = onnx.parser.parse_model(TEXT.replace("41", "20000") % 18)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.values(), "w"))
    plain, model = ir.from_proto(proto), ir.from_proto(proto)
    form = store(Chains(model), model.graph.initializers["w"], weight)
    assert form == "rice x rice"
    for level in LEVELS:
        expected, plain_ops = executed(plain, tmp_path, level)
        found, ops = executed(model, tmp_path, level)
        np.testing.assert_array_equal(found, expected)
        assert ops == plain_ops
    counts = np.unique(stored[kept], return_counts=True)[1]
    share = counts / counts.sum()
    entropy = 0.469 + 0.1 * -(share * np.log2(share)).sum()
    # .02 bits are 1,200 bytes: names, nodes, tables.
    assert entropy < 8 * len(graph.to_bytes(model)) / stored.size < 1.05 * entropy + 0.02


@pytest.mark.parametrize(("encoding", "kind"), CASES)
def test_loading_makes_the_weight_plain_again(encoding: str, kind: str, tmp_path: Path) -> None:
    model, _ = stored_model(codes(kind), encoding)
    graph.save(model, tmp_path / "stored.onnx")
    loaded = graph.load(tmp_path / "stored.onnx")
    assert [node.op_type for node in loaded.graph] == ["MatMul", "Relu"]
    found = constant(loaded.graph.initializers["w"])
    assert found is not None
    np.testing.assert_array_equal(found, codes(kind).values())


def test_constants_are_shared_and_names_are_free() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[n, 24] w0_x) => (float[n, 24] y) {
        h = MatMul (w0_x, a)
        y = MatMul (h, b)
    }
    """
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    pair = {
        name: Codes(rng.integers(-1, 2, (24, 24)).astype(np.int8), np.ones((1, 24), np.float32))
        for name in "ab"
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(pair[name].values(), name) for name in "ab")
    model = ir.from_proto(proto)
    chains = Chains(model)
    for name in "ab":
        store(chains, model.graph.initializers[name], pair[name], "packed")
    names = [value.name for node in model.graph for value in node.outputs] + list(model.graph.initializers)
    assert len(set(names)) == len(names)
    arrays = [
        tensor.numpy() for v in model.graph.initializers.values() if (tensor := v.const_value) is not None
    ]
    powers = [array for array in arrays if array.size == 5]
    assert len(powers) == 1
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(model)), full_check=True)


def test_floats_with_zeros_are_stored_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((ROWS, COLUMNS)) < 0.1, rng.standard_normal((ROWS, COLUMNS)), -0.0)
    weight = np.where(rng.random(weight.shape) < 0.9, np.abs(weight), weight).astype(
        np.float32
    )  # some zeros are -0.0
    model = model_with(weight)
    stored = store_smallest(model, ["w"])
    assert list(stored) == ["w"]
    assert len(graph.to_bytes(model)) < 0.45 * len(graph.to_bytes(model_with(weight)))
    loaded = graph.load(graph.save(model, tmp_path / "stored.onnx")[0])
    found = constant(loaded.graph.initializers["w"])
    assert found is not None
    np.testing.assert_array_equal(found.view(np.int32), weight.view(np.int32))
    # Negative control: without zeros nothing is smaller.
    dense = model_with(rng.standard_normal((ROWS, COLUMNS)).astype(np.float32))
    before = graph.to_bytes(dense)
    assert store_smallest(dense, ["w"]) == {}
    assert store_smallest(dense, ["w"], "relative") == {}
    assert graph.to_bytes(dense) == before


def test_the_same_bytes_twice() -> None:
    for encoding, kind in (("int8", "int8"), ("relative", "sparse floats"), ("auto", "sparse int8")):
        made = [graph.to_bytes(stored_model(codes(kind), encoding)[0]) for _ in range(2)]
        assert made[0] == made[1]


def test_what_is_no_initializer_is_an_error() -> None:
    model = model_with(np.zeros((ROWS, COLUMNS), np.float32))
    with pytest.raises(ValueError, match="not an initializer"):
        store(Chains(model), model.graph.inputs[0], codes("int8"), "int8")


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
