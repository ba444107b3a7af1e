"""Operators of TorchScript on numbers and lists, where torch has no operator: shape arithmetic, mostly.

Lengths may be symbols of an export; all of this works on them too.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from mlcompress.errors import UnsupportedError

_CODES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    None,
    None,
    None,
    torch.bool,
    None,
    None,
    None,
    torch.bfloat16,
)
"""TorchScript has numbers for dtypes; these are c10::ScalarType's, part of the file format."""


def code(dtype: torch.dtype) -> int:
    """Raises ValueError for dtypes that no model has."""
    return _CODES.index(dtype)


def _to(value: Any, *options: Any) -> Any:
    """`aten::to` of a number: the first option may be a dtype."""
    floating = options and options[0] in (5, 6, 7, 15) and not isinstance(options[0], bool)
    number: Any = torch.sym_float  # untyped in torch
    return number(value) if floating else value


def _divide(a: Any, b: Any, rounding: str | None = None) -> Any:
    if rounding is None:
        return a / b
    if rounding == "floor" or (a >= 0) == (b > 0):
        return a // b
    return -(-a // b)


def _size(tensor: torch.Tensor, axis: int | None = None) -> Any:
    return list(tensor.shape) if axis is None else tensor.shape[axis]


def _whole(value: Any) -> Any:
    """`aten::Int`: towards zero."""
    return value if isinstance(value, torch.SymInt) else int(value)


def _read(tensor: torch.Tensor) -> Any:
    raise UnsupportedError(
        "has a branch, loop or length that depends on the numbers in a tensor, which a graph cannot hold; "
        "export the module to ONNX, or give its state dict and `model.factory`"
    )


def _slice(items: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return items[start:end:step]


def _append(items: list[Any], value: Any) -> list[Any]:
    items.append(value)
    return items


def _root(value: Any) -> Any:
    return torch.sym_sqrt(value) if isinstance(value, torch.SymInt | torch.SymFloat) else math.sqrt(value)


def _plus(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + b if alpha == 1 else a + b * alpha


def _minus(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a - b * alpha


NUMBERS: dict[str, Callable[..., Any]] = {
    "add": _plus,
    "sub": _minus,
    "rsub": lambda a, b, alpha=1: b - a * alpha,
    "mul": operator.mul,
    "div": _divide,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "sqrt": _root,
    "rsqrt": lambda value: 1 / _root(value),
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__getitem__": operator.getitem,
    "__contains__": operator.contains,
    "len": len,
    "to": _to,
    "append": _append,
    "list": list,
    "slice": _slice,
    "Int": _whole,
    "Float": torch.sym_float,
    "Bool": bool,
    "ScalarImplicit": _whole,
    "IntImplicit": _whole,
    "FloatImplicit": lambda value: value,
    "_unwrap_optional": lambda value: value,
    "warn": lambda *_: None,
    "format": lambda text, *values: text.format(*values),
}
"""By the name of an `aten::` operator whose arguments hold no tensor."""

OF_TENSORS: dict[str, Callable[..., Any]] = {
    "size": _size,
    "dim": lambda tensor: tensor.dim(),
    "len": lambda items: items.shape[0] if isinstance(items, torch.Tensor) else len(items),
    "numel": lambda tensor: tensor.numel(),
    "is_floating_point": lambda tensor: tensor.is_floating_point(),
    "Int": _read,
    "Float": _read,
    "Bool": _read,
    "item": _read,
    "ScalarImplicit": _read,
    "IntImplicit": _read,
    "FloatImplicit": _read,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__getitem__": operator.getitem,
    "append": _append,
    "list": list,
    "_unwrap_optional": lambda value: value,
}
"""By the name of an `aten::` operator that asks a tensor, or a list of them, for a number."""
