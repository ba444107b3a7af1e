"""Element-wise ops against onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto

from tests.train.ops.oracle import EPS, compare, ints, normal, rng

UNARY = {
    "Abs": 1.0, "Asinh": 1.0, "Atan": 1.0, "Ceil": 1.0, "Cos": 1.0, "Cosh": 1.0, "Erf": 1.0, "Exp": 1.0,
    "Floor": 1.0, "HardSwish": 3.0, "Identity": 1.0, "Mish": 1.0, "Neg": 1.0, "Relu": 1.0, "Sigmoid": 1.0,
    "Sign": 1.0, "Sin": 1.0, "Sinh": 1.0, "Softplus": 1.0, "Softsign": 1.0, "Tan": 0.5, "Tanh": 1.0,
}  # fmt: skip
"""op: spread of the inputs"""


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    compare(op, normal(3, 5) * UNARY[op], tolerance=EPS)


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal", "Acosh"])
def test_unary_of_positive_numbers(op: str) -> None:
    compare(op, np.abs(normal(3, 5)) + 1.1, tolerance=EPS)


@pytest.mark.parametrize("op", ["Acos", "Asin", "Atanh"])
def test_unary_of_numbers_below_one(op: str) -> None:
    compare(op, np.tanh(normal(3, 5)) * 0.9, tolerance=EPS)


def test_round_goes_half_to_even() -> None:
    compare("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.6], np.float32), tolerance=0)


def test_predicates() -> None:
    x = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    compare("IsNaN", x, tolerance=0)
    for negative in (0, 1):
        for positive in (0, 1):
            compare("IsInf", x, tolerance=0, detect_negative=negative, detect_positive=positive)
    compare("Not", x > 0, tolerance=0)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LeakyRelu", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("ThresholdedRelu", {"alpha": 0.5}),
        ("Elu", {}),
        ("Elu", {"alpha": 0.7}),
        ("Celu", {"alpha": 0.7}),
        ("Selu", {}),
        ("Selu", {"alpha": 1.2, "gamma": 0.9}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.4}),
    ],
)
def test_activations(op: str, attributes: dict[str, float]) -> None:
    compare(op, normal(4, 6) * 2, tolerance=EPS, **attributes)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    compare("Gelu", normal(4, 6), opset=20, tolerance=EPS, approximate=approximate)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("opset", "axis"), [(18, None), (18, 1), (13, 0), (11, None), (11, 2), (11, 0), (11, -1)]
)
def test_softmax(op: str, opset: int, axis: int | None) -> None:
    """Below opset 13 the input is flattened to two axes, and the default axis is another one."""
    attributes = {} if axis is None else {"axis": axis}
    compare(op, normal(2, 3, 4), opset=opset, tolerance=EPS, **attributes)


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (4,), (3, 1, 4)])
def test_prelu_broadcasts_its_slope(slope: tuple[int, ...]) -> None:
    compare("PRelu", normal(2, 3, 5, 4), normal(*slope, seed=1), tolerance=EPS)
    compare("PRelu", normal(2, 3, 5, 4), normal(*slope, seed=1), constant=[1], tolerance=EPS)


def test_prelu_of_a_matrix() -> None:
    compare("PRelu", normal(5, 4), normal(4, seed=1), constant=[1], tolerance=EPS)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"])
def test_arithmetic_broadcasts(op: str) -> None:
    compare(op, normal(2, 3, 4), normal(3, 1, seed=1), tolerance=EPS)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_integer_arithmetic(op: str) -> None:
    """Division goes towards zero: -7 / 2 = -3."""
    compare(op, ints(-7, 7, -8, 9), ints(2, -2, 3, 4), tolerance=0)


def test_variadic_ops() -> None:
    for op in ("Max", "Min", "Sum", "Mean"):
        compare(op, normal(2, 3), normal(1, 3, seed=1), normal(2, 1, seed=2), tolerance=EPS)
        compare(op, normal(2, 3), tolerance=EPS)


def test_mod() -> None:
    compare("Mod", ints(-7, 7, -7, 7), ints(3, 3, -3, -3), tolerance=0)
    compare("Mod", ints(-7, 7, -7, 7), ints(3, 3, -3, -3), tolerance=0, fmod=1)
    compare("Mod", normal(9) * 5, normal(9, seed=1), tolerance=EPS, fmod=1)


def test_pow_keeps_the_type_of_the_base() -> None:
    compare("Pow", ints(1, 2, 3), np.array(2.0, np.float32), tolerance=0)
    compare("Pow", normal(2, 3), np.array(3, np.int64), constant=[1], tolerance=EPS)
    compare("Pow", np.abs(normal(2, 3)), normal(3, seed=1), tolerance=EPS)
    compare("Pow", normal(2, 3), np.array([2.0], np.float32), constant=[1], tolerance=EPS)


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparison(op: str) -> None:
    compare(op, ints(1, 2, 3), ints(3, 2, 1), tolerance=0)
    compare(op, normal(2, 3), normal(3, seed=1), tolerance=0)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    compare(op, np.array([[True], [False]]), np.array([True, False]), tolerance=0)


def test_where() -> None:
    compare("Where", normal(2, 3) > 0, normal(3, seed=1), normal(2, 1, seed=2), tolerance=0)


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-0.5, None), (None, 0.5), (None, None), (1.0, -1.0)])
@pytest.mark.parametrize("known", [True, False])
def test_clip(bounds: tuple[float | None, float | None], known: bool) -> None:
    arrays = [None if bound is None else np.array(bound, np.float32) for bound in bounds]
    compare("Clip", normal(4, 5) * 4, *arrays, constant=[1, 2] if known else [], tolerance=0)


def test_clip_of_integers_and_of_old_opsets() -> None:
    compare("Clip", ints(-3, 0, 9), np.array(-1), np.array(5), constant=[1, 2], tolerance=0)
    compare("Clip", normal(4, 5), opset=6, tolerance=0, min=-0.5, max=0.25)


@pytest.mark.parametrize("to", ["FLOAT", "FLOAT16", "DOUBLE", "INT64", "INT32", "UINT8", "BOOL"])
def test_cast(to: str) -> None:
    x = rng().uniform(0, 100, 20).astype(np.float32)
    compare("Cast", x, tolerance=0, to=getattr(TensorProto, to))


def test_cast_like() -> None:
    compare("CastLike", normal(4) * 9, ints(1), tolerance=0)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumsum(exclusive: int, reverse: int) -> None:
    for axis in (0, -1):
        array = np.array(axis)
        compare("CumSum", normal(3, 4), array, tolerance=EPS, exclusive=exclusive, reverse=reverse)
        compare(
            "CumSum", normal(3, 4), array, constant=[1], tolerance=EPS, exclusive=exclusive, reverse=reverse
        )
