"""Whatever has no trainable form is refused by name before anything runs, all of it at once."""

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
        [helper.make_tensor_value_info("x", 1, [1, 2, 4, 4]), helper.make_tensor_value_info("i", 7, [1])],
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
        node("NonZero", "x", "a"),
        node("NonZero", "x", "b"),
        node("Mystery", "a", "y", domain="odd"),
        outputs="y b",
    )
    assert found == [
        "op NonZero (nodes the_a, the_b) has no trainable form",
        "op odd::Mystery (nodes the_y) has no trainable form",
    ]


def test_nodes_that_no_output_needs_do_not_matter() -> None:
    assert lines(node("NonZero", "x", "unread"), node("Relu", "x")) == []


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
        (
            node("LRN", "x", size=2),
            18,
            "op LRN (nodes the_y): attribute size=2 (torch centres even windows differently)",
        ),
        (node("Concat", "x"), 18, "op Concat (nodes the_y): attribute axis is missing"),
        (node("Cast", "x", to=8), 18, "op Cast (nodes the_y): attribute to=8 (data type)"),
        (node("Resize", "x - - i", mode="cubic"), 18, "op Resize (nodes the_y): attribute mode='cubic'"),
        (
            node("Resize", "x - - i", antialias=1, keep_aspect_ratio_policy="not_larger", mode="linear"),
            18,
            "op Resize (nodes the_y): attribute antialias=1, attribute keep_aspect_ratio_policy='not_larger'",
        ),
        (
            node("Resize", "x - - i", coordinate_transformation_mode="tf_crop_and_resize"),
            18,
            "op Resize (nodes the_y): attribute coordinate_transformation_mode='tf_crop_and_resize'",
        ),
        (
            node("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 1]),
            19,
            "op AveragePool (nodes the_y): attribute dilations=[2, 1]",
        ),
        (
            node("Conv", "x x", auto_pad="SAME_UPPER", dilations=[2, 2]),
            18,
            "op Conv (nodes the_y): attribute auto_pad='SAME_UPPER' with dilations=[2, 2]",
        ),
        (
            node("ConvTranspose", "x x", output_shape=[3, 3]),
            18,
            "op ConvTranspose (nodes the_y): attribute output_shape=[3, 3]",
        ),
        (node("GatherND", "x i", batch_dims=1), 18, "op GatherND (nodes the_y): attribute batch_dims=1"),
        (
            node("Pad", "x i x"),
            18,
            "op Pad (nodes the_y): input constant_value is computed at run time, not constant, and so",
        ),
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
    pool = node("MaxPool", "x", "y indices", kernel_shape=[2, 2])
    assert lines(pool) == []
    assert lines(pool, outputs="y indices") == [
        "op MaxPool (nodes the_y): output 1 ('indices') is read has no trainable form"
    ]


def test_the_executor_raises_what_unsupported_lists() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[2] x) => (int64[a, b] y)
    { [odd] y = NonZero (x) }"""
    with pytest.raises(UnsupportedError) as caught:
        Executor(ir.from_proto(onnx.parser.parse_model(text)), purpose="distil")
    (line,) = caught.value.lines
    assert line == (
        "model: cannot distil: op NonZero (nodes odd) has no trainable form; "
        "stages that need no gradients still work"
    )
