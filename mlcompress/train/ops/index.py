"""Reading and writing by index, and tensors that are made from numbers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import DEVICE, DTYPES, Node, Refusal, Run, op
from mlcompress.train.ops.node import dtype as dtype_of

Ints = Sequence[int]


def positive(indices: Tensor, length: int) -> Tensor:
    """ONNX counts negative indices from the end; most torch functions do not."""
    return torch.where(indices < 0, indices + length, indices)


@op("Gather", "data indices")
def gather(node: Node, *, axis: int = 0) -> Run:
    """Slices of `data` along `axis`; an embedding when data is a matrix and the axis its first."""
    known = node.constant(1)
    if known is not None and known.dim() == 0:
        number = int(known.item())
        return lambda x, indices: x.select(axis, number)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        dim = axis % x.dim()
        picked = positive(indices, x.shape[dim])
        if dim == 0 and x.dim() == 2:
            return F.embedding(picked, x)
        shape = [*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :]]
        return x.index_select(dim, picked.reshape(-1)).reshape(shape)

    return run


@op("GatherElements", "data indices")
def gather_elements(node: Node, *, axis: int = 0) -> Run:
    return lambda x, indices: torch.gather(x, axis, positive(indices, x.shape[axis]).long())


@op("GatherND", "data indices")
def gather_nd(node: Node, *, batch_dims: int = 0) -> Run:
    """The last axis of the indices addresses the first axes of `data`, after `batch_dims` that both have."""

    def run(x: Tensor, indices: Tensor) -> Tensor:
        shared = [
            torch.arange(length, device=x.device).reshape(
                [-1 if i == d else 1 for i in range(indices.dim() - 1)]
            )
            for d, length in enumerate(x.shape[:batch_dims])
        ]
        return x[(*shared, *indices.unbind(-1))]

    return run if batch_dims else lambda x, indices: x[indices.unbind(-1)]


@op("Slice", "data starts ends axes steps", host="starts ends axes steps")
def slice_(
    node: Node, *, starts: Ints | None = None, ends: Ints | None = None, axes: Ints | None = None
) -> Run:
    """As Python slices; attributes before opset 10, inputs since."""
    fixed = tuple(None if part is None else list(part) for part in (starts, ends, axes))

    def run(x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Tensor:
        if starts is None:
            starts, ends, axes = fixed
        axes = range(len(starts)) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        index = [slice(None)] * x.dim()
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if step > 0:
                index[axis] = slice(start, end, step)
            else:  # torch has no negative steps
                rows = range(*slice(start, end, step).indices(x.shape[axis]))
                x = x.index_select(axis, torch.tensor(rows, dtype=torch.long, device=x.device))
        return x[tuple(index)]

    return run


@op("Trilu", "input k", host="k")
def trilu(node: Node, *, upper: int = 1) -> Run:
    """Upper or lower triangle; `k` moves the diagonal."""
    function = torch.triu if upper else torch.tril

    def run(x: Tensor, k: Any = 0) -> Tensor:
        return function(x, k[0] if isinstance(k, list) else k)

    return run


@op("OneHot", "indices depth values", host="depth")
def one_hot(node: Node, *, axis: int = -1) -> Run:
    """values[1] where the new axis counts to the index, values[0] elsewhere.

    An index out of range gives values[0] everywhere.
    """

    def run(indices: Tensor, depth: Any, values: Tensor) -> Tensor:
        count = int(depth[0] if isinstance(depth, list) else depth)
        dim = axis % (indices.dim() + 1)
        shape = [-1 if i == dim else 1 for i in range(indices.dim() + 1)]
        steps = torch.arange(count, device=indices.device).reshape(shape)
        return torch.where(positive(indices, count).unsqueeze(dim) == steps, values[1], values[0])

    return run


@op("ConstantOfShape", "input", host="input", reserved=(DEVICE,))
def constant_of_shape(node: Node, *, value: Tensor | None = None) -> Run:
    if value is not None and not isinstance(value, Tensor):
        raise Refusal("attribute value (data type)")
    number, kind = (0.0, torch.float32) if value is None else (value.item(), value.dtype)
    return lambda device, shape: torch.full(tuple(shape), number, dtype=kind, device=device)


@op("EyeLike", "input")
def eye_like(node: Node, *, dtype: int | None = None, k: int = 0) -> Run:
    """Ones on the diagonal that `k` moves, in the shape of the input."""
    wanted = None if dtype is None else dtype_of(dtype, "dtype")

    def run(x: Tensor) -> Tensor:
        column = torch.arange(x.shape[1], device=x.device)
        row = torch.arange(x.shape[0], device=x.device)[:, None]
        return (column - row == k).to(wanted or x.dtype)

    return run


@op("Range", "start limit delta", host="start limit delta", reserved=(DEVICE,))
def range_(node: Node) -> Run:
    """start, start + delta, ... below limit."""
    number = node.kind(0) or node.kind(1) or node.kind(2)
    kind = None if number is None else DTYPES[number]

    def run(device: torch.device, *given: Any) -> Tensor:
        start, limit, delta = (one[0] if isinstance(one, list) else one for one in given)
        return torch.arange(start, limit, delta, dtype=kind, device=device)

    return run
