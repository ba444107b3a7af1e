"""Pooling over any number of spatial axes.

torch's own functions where they do what ONNX means; else the windows are cut out, one kernel element at a
time.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.conv import paddings
from mlcompress.train.ops.node import Node, Refusal, Run, op

Ints = Sequence[int]
SINGLE = (torch.float32, torch.float64)
"""Types for which torch averages over three axes on a CPU."""


def cut(x: Tensor, kernel: Ints, stride: Ints, dilation: Ints, lengths: Ints) -> list[Tensor]:
    """For each element of the kernel what it sees of `x`: a view [N, C, *lengths]."""
    seen = []
    for offsets in itertools.product(*map(range, kernel)):
        rows: list[Any] = [
            slice(offset * gap, offset * gap + (length - 1) * step + 1, step)
            for offset, gap, length, step in zip(offsets, dilation, lengths, stride, strict=True)
        ]
        seen.append(x[(..., *rows)])
    return seen


class _Pooling:
    """The attributes that all kinds of pooling share."""

    def __init__(
        self,
        kernel: Ints,
        auto_pad: str,
        ceil_mode: int,
        dilations: Ints | None,
        pads: Ints | None,
        strides: Ints | None,
    ) -> None:
        self.kernel = list(kernel)
        self.stride = list(strides or [1] * len(self.kernel))
        self.dilation = list(dilations or [1] * len(self.kernel))
        self.ceil = bool(ceil_mode)
        self.padding = paddings(auto_pad, pads, strides, dilations)

    @property
    def dilated(self) -> bool:
        return any(step != 1 for step in self.dilation)

    def edges(self, x: Tensor) -> tuple[list[int], list[int]]:
        """Padding at the begin and at the end of every spatial axis."""
        symmetric, extra = self.padding(x, self.kernel)
        if extra is None:
            return symmetric, symmetric
        return extra[::2][::-1], extra[1::2][::-1]

    def windows(self, x: Tensor, fill: float, padded: float | None = None) -> list[Tensor]:
        """What each element of the kernel sees; `fill` in the pads (or `padded`), and beyond them."""
        begin, end = self.edges(x)
        lengths, beyond = [], []
        for axis, size in enumerate(self.kernel):
            have = x.shape[axis + 2] + begin[axis] + end[axis]
            reach, step = self.dilation[axis] * (size - 1) + 1, self.stride[axis]
            count = (-(-(have - reach) // step) if self.ceil else (have - reach) // step) + 1
            if self.ceil and (count - 1) * step >= x.shape[axis + 2] + begin[axis]:
                count -= 1  # the window would start in the padding
            lengths.append(count)
            beyond.append(max((count - 1) * step + reach - have, 0))
        x = _widen(x, begin, end, fill if padded is None else padded)
        x = _widen(x, [0] * len(beyond), beyond, fill)
        return cut(x, self.kernel, self.stride, self.dilation, lengths)


def _widen(x: Tensor, begin: Ints, end: Ints, fill: float) -> Tensor:
    pairs = [edge for pair in reversed(list(zip(begin, end, strict=True))) for edge in pair]
    return F.pad(x, pairs, value=fill) if any(pairs) else x


def _lowest(kind: torch.dtype) -> float:
    return float("-inf") if kind.is_floating_point else torch.iinfo(kind).min


@op("MaxPool", "X", extra=1)
def max_pool(
    node: Node,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> Run:
    """Padding never wins. Indices count through the whole input, the last axis fastest, or with
    `storage_order` the first spatial axis; of equal elements the first counts.
    """
    of = _Pooling(kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    pool = _of_rank(len(kernel_shape), F.max_pool1d, F.max_pool2d, F.max_pool3d)

    def run(x: Tensor) -> Tensor:
        symmetric, extra = of.padding(x, of.kernel)
        if extra is None and any(2 * pad > size for pad, size in zip(symmetric, of.kernel, strict=True)):
            extra = [pad for pad in reversed(symmetric) for _ in range(2)]  # torch refuses such wide pads
            symmetric = [0] * len(of.kernel)
        if (extra is not None and of.ceil) or (x.dim() == 3 and not x.is_floating_point()):
            return torch.stack(of.windows(x, _lowest(x.dtype))).amax(0)
        if extra is not None:
            x = F.pad(x, extra, value=_lowest(x.dtype))
        return pool(x, of.kernel, of.stride, symmetric, of.dilation, of.ceil)  # type: ignore[no-any-return]

    def run_with_indices(x: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape if not storage_order else [*x.shape[:2], *reversed(x.shape[2:])]
        places = torch.arange(x.numel(), device=x.device).reshape(shape)
        if storage_order:
            places = places.permute(0, 1, *range(x.dim() - 1, 1, -1))
        y, which = torch.stack(of.windows(x, _lowest(x.dtype))).max(0)
        return y, torch.stack(of.windows(places, 0)).gather(0, which[None])[0]

    return run if node.plain else run_with_indices


@op("MaxUnpool", "X I")
def max_unpool(
    node: Node, *, kernel_shape: Ints, pads: Ints | None = None, strides: Ints | None = None
) -> Run:
    """Puts the elements back to where MaxPool took them from, zeros elsewhere."""
    rank = len(kernel_shape)
    steps, edges = list(strides or [1] * rank), list(pads or [0] * 2 * rank)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        sizes = [
            (length - 1) * step + size - edges[axis] - edges[axis + rank]
            for axis, (length, step, size) in enumerate(zip(x.shape[2:], steps, kernel_shape, strict=True))
        ]
        y = x.new_zeros([*x.shape[:2], *sizes])
        return y.reshape(-1).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(y.shape)

    return run


@op("AveragePool", "X")
def average_pool(
    node: Node,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    of = _Pooling(kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    functions = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    pool = functions[len(of.kernel) - 1] if 1 <= len(of.kernel) <= 3 and not of.dilated else None
    include = bool(count_include_pad)

    def run(x: Tensor) -> Tensor:
        symmetric, extra = of.padding(x, of.kernel)
        wide = any(2 * pad > size for pad, size in zip(symmetric, of.kernel, strict=True))
        if pool is not None and extra is None and not wide and (x.dim() < 5 or x.dtype in SINGLE):
            return pool(x, of.kernel, of.stride, symmetric, of.ceil, include)
        counted = torch.stack(of.windows(torch.ones_like(x[:1, :1]), 0.0, float(include))).sum(0)
        return torch.stack(of.windows(x, 0.0)).sum(0) / counted

    return run


@op("LpPool", "X")
def lp_pool(
    node: Node,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    """(sum of |x|^p)^(1/p)"""
    of = _Pooling(kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    return lambda x: torch.linalg.vector_norm(torch.stack(of.windows(x, 0.0)), p, 0)


@op("GlobalAveragePool", "X")
def global_average_pool(node: Node) -> Run:
    return lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)


@op("GlobalMaxPool", "X")
def global_max_pool(node: Node) -> Run:
    return lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)


@op("GlobalLpPool", "X")
def global_lp_pool(node: Node, *, p: int = 2) -> Run:
    return lambda x: torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)


@op("Col2Im", "input image_shape block_shape", host="image_shape block_shape")
def column_to_image(
    node: Node, *, dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None
) -> Run:
    """Adds up columns of blocks [N, C * block, places] to an image [N, C, *image_shape]."""

    def run(x: Tensor, image: Any, block: Any) -> Tensor:
        rank = len(image)
        gaps, steps = list(dilations or [1] * rank), list(strides or [1] * rank)
        edges = list(pads or [0] * 2 * rank)
        padded = [size + edges[axis] + edges[axis + rank] for axis, size in enumerate(image)]
        places = [
            (size - gap * (side - 1) - 1) // step + 1
            for size, gap, side, step in zip(padded, gaps, block, steps, strict=True)
        ]
        numbers = torch.arange(torch.Size(padded).numel(), device=x.device).reshape(padded)
        where = torch.stack(cut(numbers, block, steps, gaps, places)).reshape(-1)
        flat = x.reshape(x.shape[0], -1, where.numel())
        y = flat.new_zeros([*flat.shape[:2], numbers.numel()]).index_add(2, where, flat)
        y = y.reshape([*flat.shape[:2], *padded])
        inside: list[Any] = [slice(edges[axis], edges[axis] + size) for axis, size in enumerate(image)]
        return y[(..., *inside)]

    return run


def _of_rank(rank: int, *functions: Callable[..., Any]) -> Callable[..., Any]:
    if not 1 <= rank <= len(functions):
        raise Refusal(f"{rank} spatial axes")
    return functions[rank - 1]
