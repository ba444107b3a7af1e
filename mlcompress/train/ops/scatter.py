"""Writing by index."""

import torch
from torch import Tensor

from mlcompress.train.ops.index import positive
from mlcompress.train.ops.node import Node, Refusal, Run, op

REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX reduction -> torch's name of it."""


def _how(reduction: str) -> str | None:
    if reduction != "none" and reduction not in REDUCE:
        raise Refusal(f"attribute reduction={reduction!r}")
    return REDUCE.get(reduction)


@op("ScatterElements", "data indices updates")
def scatter_elements(node: Node, *, axis: int = 0, reduction: str = "none") -> Run:
    """A copy of `data` with the updates at (or joined with) the elements that the indices name on `axis`."""
    how = _how(reduction)
    if how is None:
        return lambda x, indices, new: x.scatter(axis, positive(indices, x.shape[axis]).long(), new)
    return lambda x, indices, new: x.scatter_reduce(axis, positive(indices, x.shape[axis]).long(), new, how)


@op("Scatter", "data indices updates")
def scatter(node: Node, *, axis: int = 0) -> Run:
    """ScatterElements under its old name."""
    return scatter_elements(node, axis=axis)


@op("ScatterND", "data indices updates")
def scatter_nd(node: Node, *, reduction: str = "none") -> Run:
    """The last axis of the indices addresses the first axes of `data`; updates are whole slices."""
    how = _how(reduction)
    if how is None or how == "sum":
        accumulate = how == "sum"
        return lambda x, indices, new: x.index_put(indices.unbind(-1), new, accumulate)

    def run(x: Tensor, indices: Tensor, new: Tensor) -> Tensor:
        depth = indices.shape[-1]
        place = torch.zeros_like(indices[..., 0])
        for length, index in zip(x.shape[:depth], indices.unbind(-1), strict=True):
            place = place * length + positive(index, length)
        flat = x.reshape(-1, x.shape[depth:].numel())
        rows = new.reshape(-1, flat.shape[1])
        where = place.reshape(-1, 1).expand_as(rows).long()
        return flat.scatter_reduce(0, where, rows, how).reshape(x.shape)

    return run


@op("TensorScatter", "past_cache update write_indices")
def tensor_scatter(node: Node, *, axis: int = -2, mode: str = "linear") -> Run:
    """The update written into each sample's cache, from its own position on; `circular` starts again."""
    if mode not in ("linear", "circular"):
        raise Refusal(f"attribute mode={mode!r}")

    def run(cache: Tensor, update: Tensor, begin: Tensor | None = None) -> Tensor:
        dim = axis % cache.dim()
        steps = torch.arange(update.shape[dim], device=cache.device)
        first = torch.zeros_like(steps[:1]) if begin is None else begin
        place = first[:, None] + steps
        if mode == "circular":
            place = place % cache.shape[dim]
        shape = [1] * cache.dim()
        shape[0], shape[dim] = place.shape
        return cache.scatter(dim, place.reshape(shape).expand_as(update), update)

    return run
