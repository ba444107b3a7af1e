"""Gradients against finite differences, in double precision."""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mlcompress.train.executor import Executor
from tests.train.ops.oracle import Array, ints, model_of, rng


def doubles(*shape: int, seed: int = 0) -> Array:
    return rng(seed).standard_normal(shape)


X = doubles(2, 2, 4, 3)
ROWS = doubles(3, 4)
PLACES = np.array([[0, 2], [2, 1]])
HEADS = [doubles(1, 2, 3, 4, seed=seed) for seed in range(3)]
MASK = np.array([[True, True, False], [True, True, True], [True, False, True]])
CASES: list[tuple[str, list[Array | None], dict[str, Any]]] = [
    ("Attention", [*HEADS, MASK], {"softcap": 2.0}),
    ("Attention", HEADS, {"is_causal": 1, "scale": 0.7}),
    ("Attention", [doubles(1, 3, 8), doubles(1, 3, 4, seed=1), doubles(1, 3, 4, seed=2)], {"q_num_heads": 4, "kv_num_heads": 2}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "dilations": [2, 1], "pads": [1, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1, "ceil_mode": 1, "strides": [2, 2]}),
    ("CenterCropPad", [X, ints(2, 1, 6, 2)], {}),
    ("Col2Im", [doubles(1, 8, 6), ints(3, 4), ints(2, 2)], {}),
    ("Compress", [ROWS, np.array([True, False, True])], {"axis": 0}),
    ("ConvTranspose", [X, doubles(2, 3, 3, 2, seed=1), doubles(3)], {"strides": [2, 2], "output_shape": [8, 7]}),
    ("ConvTranspose", [X, doubles(2, 3, 3, 2, seed=1)], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("CumProd", [ROWS, np.array(1)], {"exclusive": 1, "reverse": 1}),
    ("CumSum", [ROWS, np.array(0)], {"exclusive": 1}),
    ("DFT", [doubles(2, 5, 1)], {"onesided": 1}),
    ("Det", [doubles(2, 3, 3)], {}),
    ("Einsum", [ROWS, doubles(4, 2)], {"equation": "ij,jk->ki"}),
    ("GatherND", [X, np.array([[1], [-1]])], {"batch_dims": 1}),
    ("GlobalLpPool", [X], {"p": 3}),
    ("GridSample", [X, doubles(2, 3, 2, 2, seed=1) / 3], {"mode": "cubic", "padding_mode": "reflection"}),
    ("GridSample", [X, doubles(2, 3, 2, 2, seed=1) / 3], {"align_corners": 1}),
    ("LRN", [doubles(1, 5, 2, 2)], {"size": 4, "alpha": 0.5}),
    ("LpNormalization", [ROWS], {"p": 1}),
    ("LpPool", [X], {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1], "dilations": [1, 2]}),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1, "strides": [2, 2]}),
    ("NegativeLogLikelihoodLoss", [doubles(3, 4), np.array([1, 3, 0]), doubles(4) ** 2], {"ignore_index": 3}),
    ("Pad", [X, ints(0, 0, 2, 1, 0, 0, 1, 2)], {"mode": "reflect"}),
    ("ReduceLogSumExp", [X, ints(1, 3)], {}),
    ("Resize", [X, None, None, ints(2, 2, 6, 2)], {"mode": "cubic", "antialias": 1, "exclude_outside": 1}),
    ("Resize", [X, None, None, ints(2, 2, 3, 5)], {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}),
    ("Resize", [X, np.array([0, 0, 0.1, -0.3, 1, 1, 0.8, 0.9]), None, ints(2, 2, 3, 5)], {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}),
    ("ReverseSequence", [X, ints(1, 2)], {"time_axis": 1, "batch_axis": 0}),
    ("RotaryEmbedding", [HEADS[0], doubles(3, 2), doubles(3, 2, seed=1), np.array([[2, 0, 1]])], {"interleaved": 1}),
    ("STFT", [doubles(1, 9, 1), np.array(2), doubles(4)], {}),
    ("ScatterElements", [ROWS, PLACES, doubles(2, 2)], {"reduction": "mul"}),
    ("ScatterElements", [ROWS, PLACES, doubles(2, 2)], {"axis": 1}),
    ("ScatterND", [ROWS, np.array([[0], [2]]), doubles(2, 4)], {"reduction": "max"}),
    ("ScatterND", [ROWS, PLACES, doubles(2)], {"reduction": "add"}),
    ("Shrink", [ROWS], {"bias": 0.3, "lambd": 0.2}),
    ("SoftmaxCrossEntropyLoss", [doubles(2, 3, 2), np.array([[0, 2], [1, 1]])], {"reduction": "sum"}),
    ("TensorScatter", [X, doubles(2, 2, 2, 3, seed=1), ints(1, 3)], {"mode": "circular"}),
    ("TopK", [ROWS, ints(2)], {"axis": 0}),
]  # fmt: skip
NEWEST = {
    "CumProd": 26,
    "TensorScatter": 24,
    "Attention": 23,
    "RotaryEmbedding": 23,
    "AveragePool": 22,
    "LpPool": 22,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_gradient(case: tuple[str, list[Array | None], dict[str, Any]]) -> None:
    """gradcheck's own tolerances: central differences of step 1e-6, errors below 1e-5 + 1e-3 of the value."""
    op, inputs, attributes = case
    outputs = 2 if op == "TopK" else 1
    model = model_of(op, inputs, attributes, opset=NEWEST.get(op, 20), outputs=outputs)
    executor = Executor(ir.from_proto(model)).eval()
    fixed = {f"x{i}": torch.from_numpy(a) for i, a in enumerate(inputs) if a is not None and a.dtype != float}
    varied = {
        f"x{i}": torch.from_numpy(a) for i, a in enumerate(inputs) if a is not None and a.dtype == float
    }
    if op == "Resize":  # the regions of a crop are no input of the function
        fixed["x1"] = varied.pop("x1", torch.zeros(0))

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return executor({**fixed, **dict(zip(varied, tensors, strict=True))})["y0"]

    assert torch.autograd.gradcheck(
        function,
        [tensor.clone().requires_grad_() for tensor in varied.values()],
        atol=1e-5,
        rtol=1e-3,
        fast_mode=True,
    )


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-12), (np.float16, 2e-3)])
@pytest.mark.parametrize(
    ("op", "constant", "attributes", "inputs"),
    [
        ("Conv", [1, 2], {"pads": [1, 1, 0, 0]}, [X, doubles(3, 2, 2, 2), doubles(3)]),
        ("LayerNormalization", [1, 2], {}, [X, doubles(3), doubles(3)]),
        ("Gemm", [1, 2], {"alpha": 0.5}, [ROWS, doubles(4, 2), doubles(2)]),
        ("Softmax", [], {}, [X]),
        ("Resize", [3], {"mode": "cubic"}, [X, None, None, ints(2, 2, 6, 5)]),
        ("ReduceMean", [], {}, [X]),
        ("Gelu", [], {}, [X]),
    ],
)
def test_graphs_run_in_their_own_type(
    kind: type,
    tolerance: float,
    op: str,
    constant: Collection[int],
    attributes: dict[str, Any],
    inputs: list[Array | None],
) -> None:
    """The result has the type of the graph, and the numbers of a graph in double precision."""

    def run(precision: type) -> torch.Tensor:
        given = [a if a is None or a.dtype != float else a.astype(kind).astype(precision) for a in inputs]
        executor = Executor(ir.from_proto(model_of(op, given, attributes, opset=20, constant=constant)))
        return executor(
            {f"x{i}": torch.from_numpy(a) for i, a in enumerate(given) if a is not None and i not in constant}
        )["y0"].detach()

    y, exact = run(kind), run(np.float64)
    assert y.dtype == torch.from_numpy(np.zeros(0, kind)).dtype
    np.testing.assert_allclose(y.double().numpy(), exact.numpy(), rtol=tolerance, atol=tolerance)
    if kind is np.float64:  # not computed in single precision on the way: that shows in the digits
        assert (y != y.float().double()).any()
