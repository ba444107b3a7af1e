"""Element by element arithmetic, comparison and logic, with numpy broadcasting."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, dtype, op, simple

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
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Identity": lambda x: x,
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


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """ONNX divides integers towards zero."""
    if a.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


simple(
    "A B",
    {
        "Add": torch.add,
        "And": torch.logical_and,
        "Div": _divide,
        "Equal": torch.eq,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Mul": torch.mul,
        "Or": torch.logical_or,
        "Sub": torch.sub,
        "Xor": torch.logical_xor,
    },
)
simple("condition X Y", {"Where": torch.where})
simple(
    "data*",
    {
        "Max": lambda *xs: reduce(torch.maximum, xs),
        "Min": lambda *xs: reduce(torch.minimum, xs),
        "Sum": lambda *xs: reduce(torch.add, xs),
        "Mean": lambda *xs: reduce(torch.add, xs) / len(xs),
    },
)


@op("Mod", "A B")
def mod(node: Node, *, fmod: int = 0) -> Run:
    """The sign follows the divisor, or with `fmod` the dividend."""
    return torch.fmod if fmod else torch.remainder


@op("Pow", "X Y")
def power(node: Node) -> Run:
    """The result has the type of the base."""
    exponent = node.constant(1)
    if exponent is not None and exponent.dim() == 0:
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


@op("Cast", "input")
def cast(node: Node, *, to: int, saturate: int = 1) -> Run:
    """Floats are cut towards zero. `saturate` only concerns 8-bit floats, which `to` refuses."""
    wanted = dtype(to, "to")
    return lambda x: x.to(wanted)


@op("CastLike", "input target_type")
def cast_like(node: Node, *, saturate: int = 1) -> Run:
    return lambda x, like: x.to(like.dtype)


@op("IsInf", "X")
def is_inf(node: Node, *, detect_negative: int = 1, detect_positive: int = 1) -> Run:
    signs = {(1, 1): torch.isinf, (1, 0): torch.isneginf, (0, 1): torch.isposinf}
    return signs.get((detect_negative, detect_positive), lambda x: torch.zeros_like(x, dtype=torch.bool))


@op("CumSum", "x axis", host="axis")
def cumulative_sum(node: Node, *, exclusive: int = 0, reverse: int = 0) -> Run:
    """Sum of the elements before (or after: `reverse`) each one, itself included unless `exclusive`."""

    def run(x: Tensor, axis: Any) -> Tensor:
        dim = axis[0] if isinstance(axis, list) else axis
        y = x.flip(dim) if reverse else x
        total = y.cumsum(dim, dtype=x.dtype)
        if exclusive:
            total = total - y
        return total.flip(dim) if reverse else total

    return run
