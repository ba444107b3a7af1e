"""Convolution over any number of spatial axes.

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


def paddings(auto_pad: str, pads: Ints | None, strides: Ints | None, dilations: Ints | None) -> Pads:
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
    padding = paddings(auto_pad, pads, strides, dilations)
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
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    """X: [N, C, ...], W: [C, M / group, ...], B: [M]. Pads cut the result; `output_shape` says how much, and
    so does SAME, which makes the result the input times the stride.
    """
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refusal(f"attribute auto_pad={auto_pad!r}")
    stride, dilation, more = list(strides or [1]), list(dilations or [1]), list(output_padding or [0])
    half = len(pads or ()) // 2
    begin, end = (list(pads[:half]), list(pads[half:])) if pads and auto_pad == "NOTSET" else ([0], [0])
    wanted = None if output_shape is None else list(output_shape)
    cut = wanted is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER")
    symmetric = begin if begin == end and not cut else [0]

    def cuts(x: Tensor, y: Tensor) -> tuple[list[int], list[int]]:
        """How much to take off at both ends of every spatial axis; below 0 to add at the end."""
        rank = y.dim() - 2
        steps = stride * rank if len(stride) == 1 else stride
        sizes = wanted[-rank:] if wanted else [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
        totals = [have - size for have, size in zip(y.shape[2:], sizes, strict=True)]
        small = [max(total, 0) // 2 for total in totals]
        large = [total - less for total, less in zip(totals, small, strict=True)]
        if auto_pad == "SAME_UPPER":
            return small, large
        return [max(total, 0) for total in large], [min(*pair) for pair in zip(totals, small, strict=True)]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.convolution(
            x, weight, None if cut else bias, stride, symmetric, dilation, True, more, group
        )
        if not cut and begin == end:
            return y
        edges = cuts(x, y) if cut else (begin, end)
        y = F.pad(y, [-edge for pair in reversed(list(zip(*edges, strict=True))) for edge in pair])
        return y if bias is None or not cut else y + bias.reshape(-1, *[1] * (y.dim() - 2))

    return run
