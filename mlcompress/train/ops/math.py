"""Element by element arithmetic, comparison and logic, with numpy broadcasting."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import DTYPES, PACKED, UNSIGNED, Node, Refusal, Run, dtype, op, simple

simple(
    "X",
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Det": lambda x: torch.linalg.det(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype),
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "IsNaN": torch.isnan,
        "Log": torch.log,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal,
        "Round": torch.round,  # half to even, as in ONNX
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Sqrt": torch.sqrt,
        "Tan": torch.tan,
    },
)


simple("X", {"Identity": lambda x: x}, more=UNSIGNED | PACKED.keys())
simple("condition X Y", {"Where": torch.where}, more=UNSIGNED)
simple("A B", {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor})
simple("A B", {"Equal": torch.eq}, more=UNSIGNED)
simple(
    "data*", {"Sum": lambda *xs: reduce(torch.add, xs), "Mean": lambda *xs: reduce(torch.add, xs) / len(xs)}
)

NARROW = frozenset({4, 12})
"""uint16 and uint32: torch has no arithmetic for them, but int64 holds all their numbers."""


def _arithmetic(name: str, inputs: str, function: Run, of_integers: Run | None = None) -> None:
    whole = of_integers or function

    @op(name, inputs, more=NARROW)
    def build(node: Node) -> Run:
        kind = node.kind(0)
        if kind in NARROW:
            return _through_int64(node, whole)
        if kind is None and of_integers is not None:
            return lambda x, *rest: (function if x.is_floating_point() else of_integers)(x, *rest)
        # by the type of the graph: codes of a quantiser are floats here, and are divided as whole numbers
        return function if kind is None or DTYPES[kind].is_floating_point else whole


def _through_int64(node: Node, function: Run) -> Run:
    """Whole numbers wrap around in the end, as in the narrow type."""
    kind = node.kinds.get(node.outputs[0])
    wanted = None if kind is None else DTYPES[kind]
    return lambda *xs: function(*(x.to(torch.int64) for x in xs)).to(wanted or xs[0].dtype)


def _divide_integers(a: Tensor, b: Tensor) -> Tensor:
    """Towards zero."""
    return torch.div(a, b, rounding_mode="trunc")


_arithmetic("Add", "A B", torch.add)
_arithmetic("Div", "A B", torch.div, _divide_integers)
_arithmetic("Greater", "A B", torch.gt)
_arithmetic("GreaterOrEqual", "A B", torch.ge)
_arithmetic("Less", "A B", torch.lt)
_arithmetic("LessOrEqual", "A B", torch.le)
_arithmetic("Max", "data*", lambda *xs: reduce(torch.maximum, xs))
_arithmetic("Min", "data*", lambda *xs: reduce(torch.minimum, xs))
_arithmetic("Mul", "A B", torch.mul)
_arithmetic("Sub", "A B", torch.sub)


@op("Mod", "A B", more=NARROW)
def mod(node: Node, *, fmod: int = 0) -> Run:
    """The sign follows the divisor, or with `fmod` the dividend."""
    function = torch.fmod if fmod else torch.remainder
    return _through_int64(node, function) if node.kind(0) in NARROW else function


@op("Pow", "X Y")
def power(node: Node) -> Run:
    """The result has the type of the base."""
    exponent = node.constant(1)
    if exponent is not None and exponent.dim() == 0 and exponent.item() >= 0:
        number = exponent.item()  # a Python number takes torch's fast paths for squares and roots
        return lambda x, y: torch.pow(x, number).to(x.dtype)
    return lambda x, y: torch.pow(x, y).to(x.dtype)


@op("Clip", "input min max")
def clip(node: Node, *, min: float | None = None, max: float | None = None) -> Run:
    """Bounds are attributes before opset 11, scalar inputs since."""
    if node.opset < 11:
        low, high = min, max
    else:
        if min is not None or max is not None:
            raise Refusal("attributes min and max belong to opsets before 11")
        bounds = [node.constant(1), node.constant(2)]
        if (node.has(1) and bounds[0] is None) or (node.has(2) and bounds[1] is None):
            return lambda x, low=None, high=None: torch.clamp(x, low, high)
        low, high = (None if bound is None else bound.item() for bound in bounds)
    if isinstance(low, float) and isinstance(high, float) and low < high:
        # One kernel each way, as ReLU6; torch.clamp needs four for its gradient.
        return lambda x, *bounds: torch.nn.functional.hardtanh(x, low, high)
    if low is None and high is None:
        return lambda x, *bounds: x
    return lambda x, *bounds: torch.clamp(x, low, high)


@op("Cast", "input", more=UNSIGNED | PACKED.keys())
def cast(node: Node, *, to: int, saturate: int = 1) -> Run:
    """Floats are cut towards zero. `saturate` only concerns 8-bit floats, which `to` refuses."""
    wanted = dtype(to, "to")
    return lambda x: x.to(wanted)


@op("CastLike", "input target_type", more=UNSIGNED | PACKED.keys())
def cast_like(node: Node, *, saturate: int = 1) -> Run:
    kind = node.kind(1)
    if kind is not None:  # codes of a quantiser are floats here, whatever their declared type
        wanted = dtype(kind, "target_type")
        return lambda x, like: x.to(wanted)
    return lambda x, like: x.to(like.dtype)


@op("BitCast", "input", more=UNSIGNED)
def bit_cast(node: Node, *, to: int) -> Run:
    """The same bits as another type of the same size."""
    wanted = dtype(to, "to")
    return lambda x: x.view(wanted)


@op("IsInf", "X")
def is_inf(node: Node, *, detect_negative: int = 1, detect_positive: int = 1) -> Run:
    signs = {(1, 1): torch.isinf, (1, 0): torch.isneginf, (0, 1): torch.isposinf}
    return signs.get((detect_negative, detect_positive), lambda x: torch.zeros_like(x, dtype=torch.bool))


@op("Shrink", "input")
def shrink(node: Node, *, bias: float = 0.0, lambd: float = 0.5) -> Run:
    """x + bias below -lambd, x - bias above lambd, 0 between."""

    def run(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)

    return run


@op("CumSum", "x axis", host="axis")
def cumulative_sum(node: Node, *, exclusive: int = 0, reverse: int = 0) -> Run:
    """Sum of the elements before (or after: `reverse`) each one, itself included unless `exclusive`."""
    return _cumulative(torch.cumsum, 0, exclusive, reverse)


@op("CumProd", "x axis", host="axis")
def cumulative_product(node: Node, *, exclusive: int = 0, reverse: int = 0) -> Run:
    """As CumSum, with products."""
    return _cumulative(torch.cumprod, 1, exclusive, reverse)


def _cumulative(function: Run, neutral: int, exclusive: int, reverse: int) -> Run:
    def run(x: Tensor, axis: Any) -> Tensor:
        dim = axis[0] if isinstance(axis, list) else axis
        y = x.flip(dim) if reverse else x
        if exclusive:
            first = torch.full_like(y.narrow(dim, 0, 1), neutral)
            y = torch.cat((first, y.narrow(dim, 0, y.shape[dim] - 1)), dim)
        total: Tensor = function(y, dim, dtype=x.dtype)
        return total.flip(dim) if reverse else total

    return run
