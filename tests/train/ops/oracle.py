"""One node, run by onnxruntime and by the executor."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper

from mlcompress.train.executor import Executor

Array = np.ndarray[Any, Any]
EPS = 1e-5
"""fp32, the same formula: sums in another order and approximated functions stay below (atol, rtol)."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.asarray(rng(seed).standard_normal(shape), dtype=np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def model_of(
    op: str,
    inputs: Sequence[Array | None],
    attributes: dict[str, Any],
    *,
    opset: int,
    constant: Collection[int] = (),
    outputs: int = 1,
) -> onnx.ModelProto:
    """A graph of one node; the inputs at `constant` are initializers, the others graph inputs x0, x1, ..."""
    names = ["" if array is None else f"x{index}" for index, array in enumerate(inputs)]
    given = [(index, array) for index, array in enumerate(inputs) if array is not None]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], "node", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            # dynamic shapes, but for lists: the checker wants to know how long `sizes` is
            helper.make_tensor_value_info(
                names[i],
                helper.np_dtype_to_tensor_dtype(a.dtype),
                a.shape if a.ndim == 1 else [None] * a.ndim,
            )
            for i, a in given
            if i not in constant
        ],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
        [numpy_helper.from_array(array, names[index]) for index, array in given if index in constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def reference(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feed)]


def compare(
    op: str,
    *inputs: Array | None,
    opset: int = 18,
    constant: Collection[int] = (),
    outputs: int = 1,
    tolerance: float,
    **attributes: Any,
) -> None:
    """Both give the same shapes, types and numbers, |a - b| <= tolerance (1 + |b|); gradients are finite."""
    model = model_of(op, inputs, attributes, opset=opset, constant=constant, outputs=outputs)
    feed = {f"x{i}": a for i, a in enumerate(inputs) if a is not None and i not in constant}
    expected = reference(model, feed)
    executor = Executor(ir.from_proto(model)).eval()
    tensors = {name: torch.from_numpy(array.copy()) for name, array in feed.items()}
    for tensor in tensors.values():
        tensor.requires_grad_(tensor.is_floating_point())
    got = list(executor(tensors).values())
    assert len(got) == len(expected)
    for value, wanted in zip(got, expected, strict=True):
        array = value.detach().numpy()
        assert array.dtype == wanted.dtype
        assert array.shape == wanted.shape
        np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance)
    summands = [value.sum() for value in got if value.requires_grad]
    if summands:
        torch.stack(summands).sum().backward()
        grads = [tensor.grad for tensor in tensors.values() if tensor.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)
