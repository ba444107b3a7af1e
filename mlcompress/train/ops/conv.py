"""Convolution and pooling over any number of spatial axes.

Symmetric pads go to the torch function itself; only asymmetric ones cost an extra `F.pad`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op

Ints = Sequence[int]
Pads = Callable[[Tensor, Ints], tuple[list[int], list[int] | None]]
"""(input, kernel) -> symmetric pads for the torch function, and pads for F.pad where they are asymmetric."""


def _split(begin: Ints, end: Ints) -> tuple[list[int], list[int] | None]:
    if list(begin) == list(end):
        return list(begin), None
    # F.pad wants (begin, end) pairs, last axis first
    pairs = [edge for pair in reversed(list(zip(begin, end, strict=True))) for edge in pair]
    return [0] * len(begin), pairs


def _pads(auto_pad: str, pads: Ints | None, strides: Ints | None, dilations: Ints | None) -> Pads:
    """How much padding a node asks for; SAME pads depend on the size of the input.

    onnxruntime refuses SAME pads with dilation as well.
    """
    if auto_pad in ("NOTSET", "VALID"):
        if auto_pad == "VALID" or not pads:
            return lambda x, kernel: ([0] * len(kernel), None)
        fixed = _split(pads[: len(pads) // 2], pads[len(pads) // 2 :])
        return lambda x, kernel: fixed
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refusal(f"attribute auto_pad={auto_pad!r}")
    if any(step != 1 for step in dilations or ()):
        raise Refusal(f"attribute auto_pad={auto_pad!r} with dilations={list(dilations or ())}")

    def same(x: Tensor, kernel: Ints) -> tuple[list[int], list[int] | None]:
        begin, end = [], []
        for axis, size in enumerate(kernel):
            stride = strides[axis] if strides else 1
            length = x.shape[axis + 2]
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            small, large = total // 2, total - total // 2
            begin.append(small if auto_pad == "SAME_UPPER" else large)
            end.append(large if auto_pad == "SAME_UPPER" else small)
        return _split(begin, end)

    return same


@op("Conv", "X W B")
def conv(
    node: Node,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    """X: [N, C, ...], W: [M, C / group, ...], B: [M]. `kernel_shape` repeats the shape of W."""
    padding = _pads(auto_pad, pads, strides, dilations)
    stride, dilation = list(strides or [1]), list(dilations or [1])
    no_output_padding = [0]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        symmetric, extra = padding(x, weight.shape[2:])
        if extra is not None:
            x = F.pad(x, extra)
        return torch.convolution(
            x, weight, bias, stride, symmetric, dilation, False, no_output_padding, group
        )

    return run


@op("ConvTranspose", "X W B")
def conv_transpose(
    node: Node,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    """X: [N, C, ...], W: [C, M / group, ...], B: [M]. Pads cut the result."""
    if auto_pad not in ("NOTSET", "VALID"):
        raise Refusal(f"attribute auto_pad={auto_pad!r}")
    stride, dilation, more = list(strides or [1]), list(dilations or [1]), list(output_padding or [0])
    half = len(pads or ()) // 2
    begin, end = (list(pads[:half]), list(pads[half:])) if pads and auto_pad == "NOTSET" else ([0], [0])
    symmetric = begin if begin == end else [0]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.convolution(x, weight, bias, stride, symmetric, dilation, True, more, group)
        if begin != end:
            for axis, (low, high) in enumerate(zip(begin, end, strict=True), start=2):
                y = y.narrow(axis, low, y.shape[axis] - low - high)
        return y

    return run


@op("MaxPool", "X")
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
    """Padding never wins. `storage_order` only concerns Indices, which are refused where they are read."""
    pool = _of_rank(len(kernel_shape), F.max_pool1d, F.max_pool2d, F.max_pool3d)
    padding = _pads(auto_pad, pads, strides, dilations)
    kernel, dilation = list(kernel_shape), list(dilations or [1] * len(kernel_shape))
    stride = list(strides or [1] * len(kernel))

    def run(x: Tensor) -> Tensor:
        symmetric, extra = padding(x, kernel)
        if extra is None and any(2 * pad > size for pad, size in zip(symmetric, kernel, strict=True)):
            extra = [pad for pad in reversed(symmetric) for _ in range(2)]  # torch refuses such wide pads
            symmetric = [0] * len(kernel)
        if extra is not None:
            x = F.pad(x, extra, value=float("-inf"))
        return pool(x, kernel, stride, symmetric, dilation, bool(ceil_mode))

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
    if any(step != 1 for step in dilations or ()):
        raise Refusal(f"attribute dilations={list(dilations or ())}")
    pool = _of_rank(len(kernel_shape), F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    padding = _pads(auto_pad, pads, strides, None)
    kernel, stride = list(kernel_shape), list(strides or [1] * len(kernel_shape))
    ceil, include = bool(ceil_mode), bool(count_include_pad)

    def run(x: Tensor) -> Tensor:
        symmetric, extra = padding(x, kernel)
        if extra is None:
            return pool(x, kernel, stride, symmetric, ceil, include)
        if ceil and include:
            raise RuntimeError("ceil_mode with asymmetric pads that count")
        y = pool(F.pad(x, extra), kernel, stride, 0, ceil)
        if include:
            return y
        inside = F.pad(torch.ones_like(x[:1, :1]), extra)
        return y / pool(inside, kernel, stride, 0, ceil)

    return run


@op("GlobalAveragePool", "X")
def global_average_pool(node: Node) -> Run:
    return lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)


@op("GlobalMaxPool", "X")
def global_max_pool(node: Node) -> Run:
    return lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)


def _of_rank(rank: int, *functions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if not 1 <= rank <= len(functions):
        raise Refusal(f"{rank} spatial axes")
    return functions[rank - 1]
