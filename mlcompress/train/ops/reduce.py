"""Reductions over axes, and the order of elements along one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Whole numbers are cut towards zero."""
    if x.is_floating_point():
        return x.mean(dims, keepdim=keep)
    total = x.sum(dims, keepdim=keep)
    return torch.div(total, x.numel() // max(total.numel(), 1), rounding_mode="trunc").to(x.dtype)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep, dtype=x.dtype)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.dim() for d in dims), reverse=True):  # torch multiplies one axis at a time
        x = x.prod(dim, keepdim=keep, dtype=x.dtype)
    return x


def _largest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.amax(dims, keepdim=keep) if x.numel() else _of_nothing(x, dims, keep, -1)


def _smallest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.amin(dims, keepdim=keep) if x.numel() else _of_nothing(x, dims, keep, 1)


def _of_nothing(x: Tensor, dims: list[int], keep: bool, sign: int) -> Tensor:
    """The extreme of no elements: the other end of the type."""
    ends: Any = (False, True) if x.dtype == torch.bool else (float("-inf"), float("inf"))
    if not x.is_floating_point() and x.dtype != torch.bool:
        ends = (torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max)
    shape = x.sum(dims, keepdim=keep).shape
    return torch.full(shape, ends[sign > 0], dtype=x.dtype, device=x.device)


def _in_floats(function: Run) -> Run:
    """Roots and logarithms of whole numbers are cut to whole numbers."""

    def run(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        if x.is_floating_point():
            return function(x, dims, keep)  # type: ignore[no-any-return]
        return function(x.to(torch.float64), dims, keep).to(x.dtype)  # type: ignore[no-any-return]

    return run


REDUCTIONS: dict[str, Run] = {
    "ReduceL1": lambda x, dims, keep: _sum(x.abs(), dims, keep),
    "ReduceL2": _in_floats(lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keep)),
    "ReduceLogSum": _in_floats(lambda x, dims, keep: _sum(x, dims, keep).log()),
    "ReduceLogSumExp": _in_floats(lambda x, dims, keep: torch.logsumexp(x, dims, keep)),
    "ReduceMax": _largest,
    "ReduceMean": _mean,
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, dims, keep: _sum(x * x, dims, keep),
}


def _enter(name: str, function: Run) -> None:
    @op(name, "data axes", host="axes")
    def build(
        node: Node, *, axes: Sequence[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Run:
        """Axes are an attribute in old opsets, an input since.

        No axes: all of them, or with `noop_with_empty_axes` none.
        """
        keep, of_attribute = bool(keepdims), list(axes or [])

        def run(x: Tensor, of_input: Any = None) -> Tensor:
            dims = of_input or of_attribute
            if not dims:
                if noop_with_empty_axes:
                    return x
                dims = list(range(x.dim()))
            return function(x, dims, keep) if x.dim() else x

        if noop_with_empty_axes and name != "ReduceSum" and not of_attribute and not node.has(1):
            raise Refusal("attribute noop_with_empty_axes=1 without axes")
        return run


for _name, _function in REDUCTIONS.items():
    _enter(_name, _function)


def _extreme(node: Node, function: Run, axis: int, keepdims: int, select_last_index: int) -> Run:
    """Of equal elements the first counts, or the last."""
    keep = bool(keepdims)
    if not select_last_index:
        return lambda x: function(x, axis, keep)
    return lambda x: x.shape[axis] - 1 - function(x.flip(axis), axis, keep)


@op("ArgMax", "data")
def arg_max(node: Node, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Run:
    return _extreme(node, torch.argmax, axis, keepdims, select_last_index)


@op("ArgMin", "data")
def arg_min(node: Node, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Run:
    return _extreme(node, torch.argmin, axis, keepdims, select_last_index)
