"""Matrix products and reductions against onnxruntime."""

import numpy as np
import pytest

from tests.train.ops.oracle import EPS, compare, ints, normal


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (3, 1), (3, 5)])
def test_gemm(trans_a: int, trans_b: int, bias: tuple[int, ...] | None) -> None:
    a = normal(4, 3) if trans_a else normal(3, 4)
    b = normal(5, 4, seed=1) if trans_b else normal(4, 5, seed=1)
    arrays = [a, b] if bias is None else [a, b, normal(*bias, seed=2)]
    compare("Gemm", *arrays, constant=[1, 2], tolerance=EPS, transA=trans_a, transB=trans_b)
    compare("Gemm", *arrays, tolerance=EPS, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((4,), (4,))],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    compare("MatMul", normal(*a), normal(*b, seed=1), tolerance=EPS)


@pytest.mark.parametrize("equation", ["bij, bjk -> bik", "...ij->...ji", "bhid,bhjd->bhij", "ii->i"])
def test_einsum(equation: str) -> None:
    shapes = {
        "bij, bjk -> bik": [(2, 3, 4), (2, 4, 5)],
        "...ij->...ji": [(2, 3, 4)],
        "bhid,bhjd->bhij": [(2, 3, 4, 5), (2, 3, 6, 5)],
        "ii->i": [(4, 4)],
    }
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes[equation])]
    compare("Einsum", *arrays, tolerance=EPS, equation=equation)


REDUCTIONS = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
def test_reduce(op: str, keepdims: int, axes: list[int] | None) -> None:
    """Axes as an input (opset 18), known or not, and as an attribute (opset 11)."""
    x = np.abs(normal(2, 3, 4)) + 0.1
    arrays = [x] if axes is None else [x, np.array(axes)]
    compare(op, *arrays, constant=[1], tolerance=EPS, keepdims=keepdims)
    if axes is not None:
        compare(op, *arrays, tolerance=EPS, keepdims=keepdims)
    attributes = {} if axes is None else {"axes": axes}
    compare(op, x, opset=11, tolerance=EPS, keepdims=keepdims, **attributes)


def test_reduce_sum_without_axes_may_do_nothing() -> None:
    compare("ReduceSum", normal(2, 3), tolerance=0, noop_with_empty_axes=1)
    compare("ReduceSum", normal(2, 3), ints(), constant=[1], tolerance=0, noop_with_empty_axes=1)
    compare("ReduceSum", normal(2, 3), ints(), constant=[1], tolerance=EPS)


def test_reduce_of_integers() -> None:
    for op in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"):
        compare(op, ints(3, 1, 2).astype(np.int32), tolerance=0)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_arg_of_ties(op: str, last: int, axis: int, keepdims: int) -> None:
    x = np.array([[1, 2, 2, 0, 0], [1, 3, 1, 3, 1], [1, 2, 2, 3, 0]], np.float32)
    compare(op, x, tolerance=0, select_last_index=last, axis=axis, keepdims=keepdims)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("known", [True, False])
def test_top_k_with_ties(largest: int, axis: int, known: bool) -> None:
    x = np.array([[1, 2, 2, 0, 0], [1, 3, 1, 3, 1], [1, 2, 2, 3, 0]], np.float32)
    constant = [1] if known else []
    compare("TopK", x, ints(2), constant=constant, outputs=2, tolerance=0, largest=largest, axis=axis)
