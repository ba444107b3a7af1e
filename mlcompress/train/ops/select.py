"""Ops whose result depends on the numbers themselves: which elements are taken, or in which order."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op


@op("Compress", "input condition")
def compress(node: Node, *, axis: int | None = None) -> Run:
    """The slices of `axis` (or elements of the flat input) where the condition holds; it may be shorter."""

    def run(x: Tensor, condition: Tensor) -> Tensor:
        rows = condition.nonzero().reshape(-1)
        return x.reshape(-1).index_select(0, rows) if axis is None else x.index_select(axis, rows)

    return run


@op("NonZero", "X")
def non_zero(node: Node) -> Run:
    """Places of all elements but zeros: [rank, count]."""
    return lambda x: x.nonzero().t()


@op("Unique", "X", outputs=4)
def unique(node: Node, *, axis: int | None = None, sorted: int = 1) -> Run:
    """The distinct elements (or slices of `axis`), where each comes first, which of them stands at each
    place, and how often. Unsorted: in the order in which they come.
    """

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x = x.reshape(-1) if axis is None else x
        dim = 0 if axis is None else axis
        y, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=dim)
        places = torch.arange(inverse.numel(), device=x.device)
        first = places.new_full(counts.shape, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
        if not sorted:
            order = first.argsort()
            y, first, counts = y.index_select(dim, order), first[order], counts[order]
            inverse = order.argsort()[inverse]
        return y, first, inverse, counts

    return run


@op("ReverseSequence", "input sequence_lens")
def reverse_sequence(node: Node, *, batch_axis: int = 1, time_axis: int = 0) -> Run:
    """Each sample's first `sequence_lens` steps backwards, the rest as it is."""
    if {batch_axis, time_axis} != {0, 1}:
        raise Refusal(f"attributes batch_axis={batch_axis} and time_axis={time_axis}")

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        x = x.transpose(0, 1) if time_axis else x
        step = torch.arange(x.shape[0], device=x.device)[:, None]
        place = torch.where(step < lengths, lengths - 1 - step, step)
        y = x.gather(0, place.reshape(*place.shape, *[1] * (x.dim() - 2)).expand_as(x))
        return y.transpose(0, 1) if time_axis else y

    return run


@op("Hardmax", "input")
def hardmax(node: Node, *, axis: int | None = None) -> Run:
    """1 at the first largest element along `axis`, 0 elsewhere. Before opset 13 all axes from there on are
    one.
    """

    def run(x: Tensor) -> Tensor:
        if node.opset < 13:
            flat = x.flatten(1 if axis is None else axis) if axis != 0 else x.reshape(1, -1)
            return F.one_hot(flat.argmax(-1), flat.shape[-1]).to(x.dtype).reshape(x.shape)
        dim = -1 if axis is None else axis
        return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1)

    return run


@op("TopK", "X K", host="K", outputs=2)
def top_k(node: Node, *, axis: int = -1, k: int | None = None, largest: int = 1, sorted: int = 1) -> Run:
    """Values and indices of the K largest (or smallest); of equal elements the first comes first.

    K is an attribute before opset 10, an input since.
    """

    def run(x: Tensor, given: Any = None) -> tuple[Tensor, Tensor]:
        given = k if given is None else given
        count = given[0] if isinstance(given, list) else given
        # torch.topk leaves the order of equal elements open; a stable sort does not.
        values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
        return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)

    return run
