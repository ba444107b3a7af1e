"""Types of values that a file does not state, from onnx's schemas."""

from typing import Any

import onnx
import pytest
import torch

from mlcompress.train.kinds import output_kinds

FLOAT, UINT8, INT8, INT64, STRING, BOOL, HALF = 1, 2, 3, 7, 8, 9, 10


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "expected"),
    [
        ("Relu", [HALF], {}, [HALF]),
        ("Greater", [HALF, HALF], {}, [BOOL]),
        ("Shape", [HALF], {}, [INT64]),
        ("TopK", [HALF, INT64], {}, [HALF, INT64]),
        ("Where", [BOOL, None, HALF], {}, [HALF]),
        ("Cast", [HALF], {"to": STRING}, [STRING]),
        ("CastLike", [HALF, INT8], {}, [INT8]),
        ("ConstantOfShape", [INT64], {}, [FLOAT]),
        ("ConstantOfShape", [INT64], {"value": torch.tensor([1], dtype=torch.int8)}, [INT8]),
        ("EyeLike", [HALF], {}, [HALF]),
        ("EyeLike", [HALF], {"dtype": INT8}, [INT8]),
        ("QuantizeLinear", [FLOAT, FLOAT, INT8], {}, [INT8]),
        ("QuantizeLinear", [FLOAT, FLOAT], {}, [UINT8]),
        ("DequantizeLinear", [INT8, HALF], {}, [HALF]),
        ("DynamicQuantizeLinear", [FLOAT], {}, [UINT8, FLOAT, UINT8]),
        ("Relu", [None], {}, [None]),
        ("Mystery", [FLOAT], {}, [None]),
        # each state of a loop has its own type
        ("Loop", [INT64, BOOL, INT64, FLOAT], {}, [None, None]),
    ],
)
def test_output_kinds(
    op: str, inputs: list[int | None], attributes: dict[str, Any], expected: list[int | None]
) -> None:
    assert output_kinds(op, 21, attributes, inputs, len(expected)) == expected


def test_they_agree_with_shape_inference_of_onnx() -> None:
    """On a graph whose inner types nothing states."""
    text = """<ir_version: 10, opset_import: ["" : 21]> net (float16[2, 3] x, int64[1] k) => (float16 y)
    { v, i = TopK (x, k)  s = Shape (v)  f = Cast <to = 1> (s)  g = Floor (f)  b = Less (f, g)
      e = EyeLike (x)  n = NonZero (b)  o = IsNaN (e)  m = Mul (e, v)  y = ReduceSum <keepdims = 0> (m) }"""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.value_info)}
    for node in model.graph.node[:-1]:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found = output_kinds(node.op_type, 21, attributes, [kinds[n] for n in node.input], len(node.output))
        assert found == [kinds[name] for name in node.output]
