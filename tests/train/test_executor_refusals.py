"""Whatever has no trainable form is refused by name before anything runs, all of it at once."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from mlcompress.errors import UnsupportedError
from mlcompress.train.executor import Executor, unsupported
from tests.train.ops.oracle import Array


def lines(*nodes: onnx.NodeProto, opset: int = 18, outputs: str = "y", **arrays: Array) -> list[str]:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [
            helper.make_tensor_value_info("x", 1, [1, 2, 4, 4]),
            helper.make_tensor_value_info("i", 7, [1]),
            helper.make_tensor_value_info("u", 13, [1]),
            helper.make_tensor_value_info("text", 8, [1]),
            helper.make_tensor_sequence_value_info("list", 1, None),
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs.split()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("odd", 1)]
    )
    return unsupported(ir.from_proto(model))


def node(op: str, inputs: str, outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    names = [name if name != "-" else "" for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"the_{outputs.split()[0]}", **attributes)


def test_unknown_ops_are_named_all_at_once() -> None:
    found = lines(
        node("Bernoulli", "x", "a"),
        node("Bernoulli", "x", "b"),
        node("Mystery", "a", "y", domain="odd"),
        outputs="y b",
    )
    assert found == [
        "op Bernoulli (nodes the_a, the_b) has no trainable form",
        "op odd::Mystery (nodes the_y) has no trainable form",
    ]


def test_nodes_that_no_output_needs_do_not_matter() -> None:
    assert lines(node("Bernoulli", "x", "unread"), node("Relu", "x")) == []


@pytest.mark.parametrize(
    ("found", "opset", "expected"),
    [
        (node("Relu", "x", odd=3), 18, "op Relu (nodes the_y): attribute odd=3"),
        (node("Add", "x i", axis=1), 18, "op Add (nodes the_y): attribute axis=1"),
        (node("Gather", "x i i"), 18, "op Gather (nodes the_y): input 2 ('i')"),
        (node("Softmax", "x", axis=1, beta=2.0), 18, "op Softmax (nodes the_y): attribute beta=2.0"),
        (
            node("BatchNormalization", "x x x x x", training_mode=1),
            18,
            "op BatchNormalization (nodes the_y): attribute training_mode=1 (that belongs to the executor)",
        ),
        (node("Concat", "x"), 18, "op Concat (nodes the_y): attribute axis is missing"),
        (node("Cast", "x", to=21), 21, "op Cast (nodes the_y): attribute to=21 (data type)"),
        (node("Resize", "x - - i", mode="area"), 18, "op Resize (nodes the_y): attribute mode='area'"),
        (
            node("Resize", "x - - i", antialias=1, keep_aspect_ratio_policy="odd"),
            18,
            "op Resize (nodes the_y): attribute antialias=1, attribute keep_aspect_ratio_policy='odd'",
        ),
        (
            node("Resize", "x - x", coordinate_transformation_mode="align_corners"),
            18,
            "op Resize (nodes the_y): attribute coordinate_transformation_mode='align_corners' with computed scales",
        ),
        (
            node("Conv", "x x", auto_pad="SAME_UPPER", dilations=[2, 2]),
            18,
            "op Conv (nodes the_y): attribute auto_pad='SAME_UPPER' with dilations=[2, 2]",
        ),
        (
            node("ConvTranspose", "x x", auto_pad="ODD"),
            18,
            "op ConvTranspose (nodes the_y): attribute auto_pad='ODD'",
        ),
        (
            node("Dropout", "x - i"),
            18,
            "op Dropout (nodes the_y): input training_mode is computed at run time, not constant, and so",
        ),
        (
            node("Attention", "x x x", qk_matmul_output_mode=4),
            23,
            "op Attention (nodes the_y): attribute qk_matmul_output_mode=4",
        ),
        (node("Attention", "i i i"), 23, "op Attention (nodes the_y): input Q of whole numbers"),
        (
            node("Attention", "x x x - x x i"),
            24,
            "op Attention (nodes the_y): input nonpad_kv_seqlen together with a cache",
        ),
        (node("BitShift", "i i", direction="UP"), 18, "op BitShift (nodes the_y): attribute direction='UP'"),
        (node("DFT", "x", inverse=1), 18, "op DFT (nodes the_y): attribute inverse=1 without onesided"),
        (node("GridSample", "x x", mode="odd"), 18, "op GridSample (nodes the_y): attribute mode='odd'"),
        (
            node("GridSample", "x x", padding_mode="odd"),
            18,
            "op GridSample (nodes the_y): attribute padding_mode='odd'",
        ),
        (node("LpNormalization", "x", p=3), 18, "op LpNormalization (nodes the_y): attribute p=3"),
        (node("MaxUnpool", "x i i", kernel_shape=[2, 2]), 18, "op MaxUnpool (nodes the_y): input 2 ('i')"),
        (
            node("NegativeLogLikelihoodLoss", "x i", reduction="odd"),
            18,
            "op NegativeLogLikelihoodLoss (nodes the_y): attribute reduction='odd'",
        ),
        (
            node("ReverseSequence", "x i", time_axis=2),
            18,
            "op ReverseSequence (nodes the_y): attributes batch_axis=1 and time_axis=2",
        ),
        (
            node("ScatterND", "x i x", reduction="odd"),
            18,
            "op ScatterND (nodes the_y): attribute reduction='odd'",
        ),
        (
            node("ScatterElements", "x i x", reduction="odd"),
            18,
            "op ScatterElements (nodes the_y): attribute reduction='odd'",
        ),
        (
            node("TensorScatter", "x x", mode="odd"),
            24,
            "op TensorScatter (nodes the_y): attribute mode='odd'",
        ),
        (
            node("ReduceL1", "x", noop_with_empty_axes=1),
            18,
            "op ReduceL1 (nodes the_y): attribute noop_with_empty_axes=1 without axes",
        ),
        (node("Add", "u u"), 18, "op Add (nodes the_y): data type uint64"),
        (node("Equal", "text text"), 18, "op Equal (nodes the_y): data type string"),
        (node("Identity", "list"), 18, "op Identity (nodes the_y): data type sequence"),
        (node("Cast", "x", to=17), 19, "op Cast (nodes the_y): data type float8e4m3fn"),
        (
            node("LayerNormalization", "x x", stash_type=10),
            18,
            "op LayerNormalization (nodes the_y): attribute stash_type=10",
        ),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(found: onnx.NodeProto, opset: int, expected: str) -> None:
    assert lines(found, opset=opset) == [f"{expected} has no trainable form"]


def test_extra_outputs_are_refused_only_where_they_are_read() -> None:
    norm = node("BatchNormalization", "x s s s s", "y mean var")
    given = {"s": np.ones(2, np.float32)}
    assert lines(norm, opset=14, **given) == []
    assert lines(norm, opset=14, outputs="y mean", **given) == [
        "op BatchNormalization (nodes the_y): output 1 ('mean') is read has no trainable form"
    ]


def test_types_that_the_file_does_not_state_are_inferred() -> None:
    found = lines(node("Cast", "x", "text_of_x", to=8), node("Equal", "text_of_x text_of_x"))
    assert found == [
        "op Cast (nodes the_text_of_x): data type string has no trainable form",
        "op Equal (nodes the_y): data type string has no trainable form",
    ]


def test_the_executor_raises_what_unsupported_lists() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[2] x) => (float[2] y)
    { [odd] y = Bernoulli (x) }"""
    with pytest.raises(UnsupportedError) as caught:
        Executor(ir.from_proto(onnx.parser.parse_model(text)), purpose="distil")
    (line,) = caught.value.lines
    assert line == (
        "model: cannot distil: op Bernoulli (nodes odd) has no trainable form; "
        "stages that need no gradients still work"
    )
