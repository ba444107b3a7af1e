"""Stored weights become plain ones at load. Oracles: numpy on the codes, and onnxruntime on the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from mlcompress import graph
from mlcompress.graph.foldable import by_result, constant_nodes
from tests.graph.encoded import COLUMNS, FORMS, ROWS, Encoded, gaps_of, model_with, pack
from tests.graph.onnx_text import cleaned, numbers, ops

Write = Callable[..., Path]


def outputs(
    source: bytes, feed: dict[str, np.ndarray], level: ort.GraphOptimizationLevel
) -> list[np.ndarray]:
    """Without packed weights: a packed matrix is summed in another order, and a decoded one is not packed."""
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feed)


@pytest.mark.parametrize("reader", ["MatMul", "Add"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_decodes_to_the_same_bits(tmp_path: Path, name: str, reader: str) -> None:
    """Add is no weight slot: what is decoded there must not depend on the reader."""
    rng = np.random.default_rng(7)
    made = FORMS[name](rng)
    proto, path = model_with(made, reader), tmp_path / "model.onnx"
    onnx.save(proto, path)
    model = graph.load(path)
    assert ops(model) == [reader]
    assert list(model.graph.initializers) == ["w"]
    found = numbers(model, "w")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), made.values.view(np.uint32))
    feed = {
        "x": rng.standard_normal((3, ROWS) if reader == "MatMul" else (3, ROWS, COLUMNS)).astype(np.float32)
    }
    level = ort.GraphOptimizationLevel
    for chosen in (level.ORT_DISABLE_ALL, level.ORT_ENABLE_ALL):
        before = outputs(proto.SerializeToString(), feed, chosen)
        np.testing.assert_array_equal(outputs(graph.to_bytes(model), feed, chosen), before)


@pytest.mark.parametrize("name", FORMS)
def test_the_loader_says_how_a_weight_was_stored(tmp_path: Path, name: str) -> None:
    made = FORMS[name](np.random.default_rng(7))
    onnx.save(model_with(made), tmp_path / "model.onnx")
    found = graph.storage(graph.load(tmp_path / "model.onnx").graph.initializers["w"])
    assert found.form == made.form
    stored = sum(
        -(-int(np.prod(t.dims)) * {TensorProto.INT4: 4, TensorProto.UINT4: 4}.get(t.data_type, 2) // 8)
        if t.data_type in (TensorProto.INT4, TensorProto.UINT4, *two_bits())
        else onnx.numpy_helper.to_array(t).nbytes
        for t in made.tensors
    )
    assert found.bytes == stored


def two_bits() -> list[int]:
    return [getattr(TensorProto, name) for name in ("INT2", "UINT2") if hasattr(TensorProto, name)]


def test_plain_and_moved_weights_keep_their_type(write: Write) -> None:
    model = graph.load(
        write(
            """net (float[N, 2] x) => (float[N, 2] y)
               <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] v = {1, 2, 3, 4}, float[2, 2] k = {5, 6, 7, 8}> {
                t = Transpose(v)
                s = Neg(k)
                g = MatMul(x, w)
                h = MatMul(g, t)
                y = MatMul(h, s)
            }"""
        )
    )
    forms = {name: graph.storage(value).form for name, value in model.graph.initializers.items()}
    assert forms == {"w": "fp32", "t": "fp32", "s": "computed"}


def test_a_large_sparse_table_that_is_only_added_is_decoded(tmp_path: Path) -> None:
    """The ground of a scatter is blown up from a few bytes, as masks are that stay; 400 kB here."""
    rng = np.random.default_rng(3)
    kept = rng.random(100_000) < 0.02
    kept[0] = True
    values = rng.standard_normal(int(kept.sum())).astype(np.float32)
    dense = np.zeros(kept.size, np.float32)
    dense[kept] = values
    made = Encoded(18, "sparse", dense)
    gaps, filled = gaps_of(kept, values, 255)
    steps = made.cast(made.tensor("gaps", gaps.astype(np.uint8)), "steps", TensorProto.INT64)
    ends = made.node("CumSum", [steps, made.tensor("axis", np.int64(0))], "ends")
    place = made.node("Sub", [ends, made.tensor("one", np.int64(1))], "place")
    ground = made.node("ConstantOfShape", [made.shape("size", kept.size)], "ground")
    made.node("ScatterElements", [ground, place, made.tensor("kept", filled)], "w", axis=0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", kept.size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", kept.size])
    net = helper.make_graph(
        [*made.nodes, helper.make_node("Add", ["x", "w"], ["y"])], "n", [x], [y], made.tensors
    )
    onnx.save(
        helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "m.onnx",
    )
    model = graph.load(tmp_path / "m.onnx")
    assert ops(model) == ["Add"]
    np.testing.assert_array_equal(numbers(model, "w"), dense)


def two_packed(order: str) -> onnx.ModelProto:
    """Two weights of 4 bits that share bit places, mask and codebook; `order`: of the nodes in the file."""
    rng = np.random.default_rng(5)
    book = rng.standard_normal(16).astype(np.float32)
    chains, tensors = [], [("places", np.array([[0, 4]], np.uint8)), ("mask", np.uint8(15)), ("book", book)]
    tensors.append(("shape", np.array([ROWS, ROWS], np.int64)))
    for name in ("a", "b"):
        tensors.append((f"{name}_bits", pack(rng.integers(0, 16, ROWS * ROWS), 4)))
        chains.append(
            [
                helper.make_node(
                    "BitShift", [f"{name}_bits", "places"], [f"{name}_shifted"], direction="RIGHT"
                ),
                helper.make_node("BitwiseAnd", [f"{name}_shifted", "mask"], [f"{name}_taken"]),
                helper.make_node("Cast", [f"{name}_taken"], [f"{name}_index"], to=TensorProto.INT32),
                helper.make_node("Gather", ["book", f"{name}_index"], [f"{name}_values"]),
                helper.make_node("Reshape", [f"{name}_values", "shape"], [name]),
            ]
        )
    mixed = [node for pair in zip(*chains, strict=True) for node in pair]
    nodes = mixed if order == "mixed" else [*chains[0], *chains[1]]
    nodes += [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", ROWS]) for name in ("x", "y")]
    stored = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in tensors]
    net = helper.make_graph(nodes, "net", shown[:1], shown[1:], stored)
    return helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("order", ["mixed", "one by one"])
def test_weights_that_share_what_decodes_them_are_no_ties(tmp_path: Path, order: str) -> None:
    onnx.save(two_packed(order), tmp_path / "model.onnx")
    model = graph.load(tmp_path / "model.onnx")
    assert ops(model) == ["MatMul", "MatMul"]
    assert set(model.graph.initializers) == {"a", "b"}


def test_one_weight_is_decoded_after_the_other(tmp_path: Path) -> None:
    """However the file orders its nodes: intermediate tensors of one weight at a time need memory."""
    import onnx_ir as ir

    model = ir.serde.deserialize_model(two_packed("mixed"))
    order = [str(node.outputs[0].name)[0] for node in by_result(constant_nodes(model))]
    assert order == ["a"] * 5 + ["b"] * 5


def test_a_stored_matrix_that_is_tied_decodes_once(write: Write) -> None:
    """An embedding in 8 bits that is, transposed, the output layer."""
    path = write(
        """net (int64[N] x) => (float[N, 4] y) <int8[4, 2] q = {1, 2, 3, 4, 5, 6, 7, 8}, float[4, 1] s = {1, 2, 3, 4}> {
            f = Cast<to = 1>(q)
            table = Mul(f, s)
            e = Gather(table, x)
            t = Transpose(table)
            y = MatMul(e, t)
        }"""
    )
    model = graph.load(path)
    assert ops(model) == ["Gather", "Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["table"]


def test_dequantised_weights_are_a_way_to_compute_and_stay(write: Write) -> None:
    """onnxruntime does not fold DequantizeLinear: decoded weights would be another model, in speed and in bytes."""
    path = write(
        """net (float[N, 2] x) => (float[N, 4] y)
           <int4[2, 4] w = {1, 2, 3, 4, -1, -2, -3, -4}, float[2, 2] s = {0.5, 0.25, 1, 2}> {
            d = DequantizeLinear<axis = 1, block_size = 2>(w, s)
            y = MatMul(x, d)
        }""",
        '<ir_version: 10, opset_import: ["" : 21]>',
    )
    model = cleaned(path, (3, 2))
    assert ops(model) == ["DequantizeLinear", "MatMul"]
    assert graph.storage(model.graph.initializers["w"]).form == "int4"


def test_decoding_behind_a_quantised_weight_keeps_its_type(tmp_path: Path) -> None:
    """Relative indices that give the int8 weight of a Q/DQ graph: only the chain goes."""
    made = FORMS["relative, ScatterElements"](np.random.default_rng(1))
    place = next(
        i for i, node in enumerate(made.nodes) if node.op_type == "Cast" and node.output[0] == "w_float"
    )
    made.nodes[place:] = []
    made.reshaped("w_codes", "w_int8")
    made.node("DequantizeLinear", ["w_int8", made.tensor("w_step", np.float32(0.02))], "w")
    made.tensors = [t for t in made.tensors if t.name != "w_scale"]
    onnx.save(model_with(made), tmp_path / "model.onnx")
    model = graph.load(tmp_path / "model.onnx")
    assert ops(model) == ["DequantizeLinear", "MatMul"]
    assert numbers(model, "w_int8").dtype == np.int8
    np.testing.assert_array_equal(numbers(model, "w_int8") * np.float32(0.02), made.values)
