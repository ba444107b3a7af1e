"""Padding and cropping."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import UNSIGNED, Node, Refusal, Run, op

Ints = Sequence[int]


@op("Pad", "data pads constant_value axes", host="pads constant_value axes", more=UNSIGNED)
def pad(node: Node, *, mode: str = "constant", pads: Ints | None = None, value: float = 0.0) -> Run:
    """Pads are an attribute before opset 11, an input since: begins, then ends, of `axes` or of all."""
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Refusal(f"attribute mode={mode!r}")
    if mode != "constant" and node.kind(0) in UNSIGNED:
        raise Refusal(f"attribute mode={mode!r} with unsigned integers of more than 8 bits")
    fixed = None if pads is None else list(pads)

    def run(x: Tensor, amounts: Any = None, filled: Any = None, axes: Any = None) -> Tensor:
        edges = amounts if fixed is None else fixed
        dims = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        begin = dict(zip(dims, edges[: len(edges) // 2], strict=True))
        end = dict(zip(dims, edges[len(edges) // 2 :], strict=True))
        if mode == "constant":
            pairs = [edge for d in range(x.dim() - 1, -1, -1) for edge in (begin.get(d, 0), end.get(d, 0))]
            fill = filled[0] if isinstance(filled, list) else value if filled is None else filled
            return F.pad(x, pairs, value=fill)
        for dim in dims:
            if begin[dim] or end[dim]:
                position = torch.arange(-begin[dim], x.shape[dim] + end[dim], device=x.device)
                x = x.index_select(dim, _outside(position, x.shape[dim], mode))
        return x

    return run


def _outside(position: Tensor, length: Any, mode: str) -> Any:
    """Where a position outside of an axis is read."""
    if mode == "edge":
        return position.clamp(min=0).minimum(torch.as_tensor(length - 1, device=position.device))
    if mode == "wrap":
        return position % length
    if length == 1:
        return position * 0
    return length - 1 - (length - 1 - position % (2 * length - 2)).abs()


@op("CenterCropPad", "input_data shape", host="shape")
def center_crop_pad(node: Node, *, axes: Ints | None = None) -> Run:
    """`shape` of the axes, cut or padded with zeros on both sides; of an odd number one more at the end."""

    def run(x: Tensor, shape: Any) -> Tensor:
        for dim, size in zip(range(x.dim()) if axes is None else axes, shape, strict=True):
            have = x.shape[dim]
            if have > size:
                x = x.narrow(dim, (have - size) // 2, size)
            elif have < size:
                edges = [0, 0] * x.dim()
                place = 2 * (x.dim() - 1 - dim % x.dim())
                edges[place], edges[place + 1] = (size - have) // 2, size - have - (size - have) // 2
                x = F.pad(x, edges)
        return x

    return run
