"""The forms that one op has in different opsets, against onnxruntime."""

from typing import Any

import numpy as np
import pytest

from tests.train.ops.oracle import EPS, Array, compare, ints, normal

X = normal(2, 3, 4, 5)
POSITIVE = np.abs(X) + 0.5
SCALAR = np.float32(0.25)
Form = tuple[str, tuple[int, ...], list[Array | None], dict[str, Any], list[int]]

FORMS: list[Form] = [
    ("ArgMax", (7, 11), [X], {"axis": 1, "keepdims": 0}, []),
    ("ArgMin", (12, 13), [X], {"axis": 2, "select_last_index": 1}, []),
    ("AveragePool", (7, 10, 11, 19), [X], {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1]}, []),
    ("AveragePool", (19,), [X], {"kernel_shape": [2, 2], "dilations": [2, 1], "ceil_mode": 1}, []),
    ("BatchNormalization", (7, 9, 14, 15), [X, *(normal(3, seed=i) for i in (1, 2, 3)), normal(3) ** 2], {}, [1, 2, 3, 4]),
    ("Clip", (7, 10), [X], {"min": -0.5, "max": 0.5}, []),
    ("Clip", (11, 13), [X, np.float32(-0.5), np.float32(0.5)], {}, [1]),
    ("Clip", (12, 13), [X, None, np.float32(0.5)], {}, []),
    ("CumSum", (11, 14), [X, np.array(1)], {"exclusive": 1, "reverse": 1}, []),
    ("DFT", (17, 19), [X[..., None]], {"axis": 1, "onesided": 1}, []),
    ("DFT", (20,), [X[..., None], None, np.array(-3)], {}, []),
    ("Dropout", (7, 10), [X], {"ratio": 0.3}, []),
    ("Dropout", (12, 13, 22), [X, np.float32(0.3)], {}, [1]),
    ("Flatten", (7, 9, 11, 21), [X], {"axis": 2}, []),
    ("Gemm", (7, 9, 11, 13), [normal(3, 4), normal(4, 5), normal(5)], {"alpha": 0.5}, [1]),
    ("GridSample", (16,), [X, normal(2, 3, 4, 2) / 2], {"mode": "bicubic"}, []),
    ("GridSample", (20, 22), [X, normal(2, 3, 4, 2) / 2], {"mode": "cubic", "padding_mode": "border"}, []),
    ("GroupNormalization", (21,), [normal(2, 4, 5), normal(4), normal(4, seed=1)], {"num_groups": 2}, []),
    ("Hardmax", (7, 11), [X], {"axis": 2}, []),
    ("Hardmax", (13,), [X], {"axis": 2}, []),
    ("LogSoftmax", (7, 11), [X], {"axis": 2}, []),
    ("LogSoftmax", (13,), [X], {"axis": 2}, []),
    ("Max", (7, 8, 12, 13), [X, normal(2, 3, 4, 5, seed=1), normal(2, 3, 4, 5, seed=2)], {}, []),
    ("MaxPool", (8, 10, 11, 12), [X], {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]}, []),
    ("Mod", (10, 13), [np.array([-7, 7, -7]), np.array([3, -3, -3])], {}, []),
    ("OneHot", (9, 11), [np.array([1, 4, 0]), np.array(5), np.array([2, 3], np.float32)], {"axis": 0}, []),
    ("Pad", (7, 10), [X], {"pads": [0, 1, 0, 2, 1, 0, 0, 1], "value": 2.0}, []),
    ("Pad", (11, 13, 18), [X, ints(0, 1, 0, 2, 1, 0, 0, 1), SCALAR], {}, []),
    ("Pad", (18, 19), [X, ints(1, 2), None, ints(-1)], {"mode": "reflect"}, []),
    ("ReduceL2", (7, 11, 13), [X], {"axes": [1, -1], "keepdims": 0}, []),
    ("ReduceL2", (18,), [X, ints(1, -1)], {"keepdims": 0}, []),
    ("ReduceMean", (7, 11, 13), [X], {"axes": [0, 2]}, []),
    ("ReduceMean", (18,), [X, ints(0, 2)], {}, [1]),
    ("ReduceMean", (18,), [X], {}, []),
    ("ReduceSum", (7, 11), [X], {"axes": [1]}, []),
    ("ReduceSum", (13,), [X, ints(1)], {}, []),
    ("ReduceSum", (13,), [X], {"noop_with_empty_axes": 1}, []),
    ("Resize", (10,), [X, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, []),
    ("Resize", (11, 13, 18, 19), [X, np.zeros(0, np.float32), np.array([1, 1, 2, 0.5], np.float32)], {"mode": "linear"}, [1]),
    ("Scatter", (9, 10), [normal(3, 4), np.array([[0, 2], [1, 1]]), normal(2, 2)], {"axis": 0}, []),
    ("ScatterElements", (11, 13, 18), [normal(3, 4), np.array([[0, -1], [1, 3]]), normal(2, 2)], {"axis": 1}, []),
    ("Slice", (7, 9), [X], {"axes": [1, 3], "starts": [1, -3], "ends": [9, -1]}, []),
    ("Slice", (10, 11, 13), [X, ints(1, -1), ints(9, -9), ints(1, 3), ints(1, -2)], {}, []),
    ("Softmax", (7, 11), [X], {"axis": 1}, []),
    ("Softmax", (13,), [X], {"axis": 1}, []),
    ("Squeeze", (7, 11), [X[:1, :, :1]], {"axes": [0, 2]}, []),
    ("Squeeze", (13, 21), [X[:1, :, :1], ints(0, 2)], {}, []),
    ("Unsqueeze", (7, 11), [X], {"axes": [0, 3]}, []),
    ("Unsqueeze", (13, 21), [X, ints(0, -1)], {}, []),
    ("Upsample", (7,), [X], {"scales": [1.0, 1.0, 2.0, 3.0]}, []),
    ("Upsample", (9,), [X, np.array([1, 1, 2, 3], np.float32)], {"mode": "linear"}, [1]),
]  # fmt: skip
CASES = [(op, opset, *rest) for op, opsets, *rest in FORMS for opset in opsets]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_form(case: tuple[str, int, list[Array | None], dict[str, Any], list[int]]) -> None:
    op, opset, inputs, attributes, constant = case
    given = [None if array is None else np.asarray(array) for array in inputs]
    compare(op, *given, opset=opset, constant=constant, tolerance=EPS, **attributes)


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attributes"),
    [
        ("Split", 7, [X], {"axis": 1, "split": [1, 2]}),
        ("Split", 11, [X], {"axis": 2}),
        ("Split", 13, [X, ints(1, 2)], {"axis": 1}),
        ("Split", 18, [X], {"axis": 3, "num_outputs": 2}),
        ("TopK", 7, [X], {"k": 2}),
        ("TopK", 10, [X, ints(2)], {"axis": 1}),
        ("TopK", 11, [X, ints(2)], {"axis": 2, "largest": 0}),
        ("Dropout", 12, [X], {}),
        ("MaxPool", 12, [X], {"kernel_shape": [2, 2], "strides": [2, 1], "pads": [1, 1, 0, 0]}),
        ("MaxPool", 12, [X], {"kernel_shape": [2, 2], "dilations": [2, 1], "storage_order": 1}),
    ],
)
def test_form_with_two_outputs(op: str, opset: int, inputs: list[Array], attributes: dict[str, Any]) -> None:
    compare(op, *inputs, opset=opset, outputs=2, tolerance=EPS, **attributes)


def test_group_normalization_before_opset_21_scales_groups() -> None:
    """onnxruntime has no such form; the reference is the newer form with repeated numbers."""
    import onnx_ir as ir
    import torch

    from mlcompress.train.executor import Executor
    from tests.train.ops.oracle import model_of, reference

    x, scale, bias = normal(2, 4, 5), normal(2), normal(2, seed=1)
    old = Executor(
        ir.from_proto(model_of("GroupNormalization", [x, scale, bias], {"num_groups": 2}, opset=18))
    )
    new = [x, scale.repeat(2), bias.repeat(2)]
    (wanted,) = reference(
        model_of("GroupNormalization", new, {"num_groups": 2}, opset=21),
        {f"x{i}": array for i, array in enumerate(new)},
    )
    got = old({f"x{i}": torch.from_numpy(array) for i, array in enumerate((x, scale, bias))})["y0"]
    np.testing.assert_allclose(got.numpy(), wanted, rtol=EPS, atol=EPS)
