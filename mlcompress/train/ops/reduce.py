"""Reductions over axes, and the order of elements along one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.mean(dims, keepdim=keep)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep, dtype=x.dtype)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.dim() for d in dims), reverse=True):  # torch multiplies one axis at a time
        x = x.prod(dim, keepdim=keep, dtype=x.dtype)
    return x


REDUCTIONS = {
    "ReduceL1": lambda x, dims, keep: _sum(x.abs(), dims, keep),
    "ReduceL2": lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keep),
    "ReduceLogSum": lambda x, dims, keep: _sum(x, dims, keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: torch.logsumexp(x, dims, keep),
    "ReduceMax": lambda x, dims, keep: x.amax(dims, keepdim=keep),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, dims, keep: x.amin(dims, keepdim=keep),
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


@op("TopK", "X K", host="K", outputs=2)
def top_k(node: Node, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Run:
    """Values and indices of the K largest (or smallest); of equal elements the first comes first."""
    if node.opset < 10:
        raise Refusal(f"opset {node.opset} (K is an input since opset 10)")

    def run(x: Tensor, count: Any) -> tuple[Tensor, Tensor]:
        k = count[0] if isinstance(count, list) else count
        # torch.topk leaves the order of equal elements open; a stable sort does not.
        values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

    return run
