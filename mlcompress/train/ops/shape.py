"""Ops that move elements without computing: shape, order of axes, joining and cutting."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import PACKED, UNSIGNED, Node, Refusal, Run, op

Ints = Sequence[int]

MOVED = UNSIGNED | PACKED.keys()
"""Types that can be moved although there is no arithmetic for them."""


@op("Reshape", "data shape", host="shape", more=MOVED)
def reshape(node: Node, *, allowzero: int = 0) -> Run:
    """-1 is inferred; 0 copies the axis of the input unless `allowzero`."""
    known = node.constant(1)
    if known is not None and (allowzero or 0 not in known.tolist()):
        fixed = known.tolist()
        return lambda x, shape: x.reshape(fixed)
    if allowzero:
        return lambda x, shape: x.reshape(shape)
    return lambda x, shape: x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


@op("Flatten", "input", more=MOVED)
def flatten(node: Node, *, axis: int = 1) -> Run:
    """[product of the axes before `axis`, product of the rest]"""

    def run(x: Tensor) -> Tensor:
        first = axis + x.dim() if axis < 0 else axis
        if first == 0:
            return x.reshape(1, -1)
        if first == 1:
            return x.reshape(x.shape[0], -1) if x.dim() != 2 else x
        return x.flatten(0, first - 1).flatten(1) if first < x.dim() else x.reshape(-1, 1)

    return run


@op("Transpose", "data", more=MOVED)
def transpose(node: Node, *, perm: Ints | None = None) -> Run:
    if perm is None:
        return lambda x: x.permute(*range(x.dim() - 1, -1, -1))
    order = list(perm)
    return lambda x: x.permute(order)


@op("Squeeze", "data axes", host="axes", more=MOVED)
def squeeze(node: Node, *, axes: Ints | None = None) -> Run:
    """Axes are an attribute before opset 13, an input since; none: every axis of length 1."""
    fixed = tuple(axes) if axes else None

    def run(x: Tensor, given: Any = None) -> Tensor:
        dims = tuple(given) if given else fixed
        return x.squeeze() if dims is None else x.squeeze(dims)

    return run


@op("Unsqueeze", "data axes", host="axes", more=MOVED)
def unsqueeze(node: Node, *, axes: Ints | None = None) -> Run:
    """Axes count in the result; an attribute before opset 13, an input since."""
    fixed = [] if axes is None else list(axes)

    def run(x: Tensor, given: Any = None) -> Tensor:
        dims = fixed if given is None else [given] if isinstance(given, int) else given
        rank = x.dim() + len(dims)
        for dim in sorted(d % rank for d in dims):
            x = x.unsqueeze(dim)
        return x

    return run


@op("Concat", "inputs*", more=MOVED)
def concat(node: Node, *, axis: int) -> Run:
    return lambda *xs: torch.cat(xs, axis)


@op("Split", "input split", host="split", outputs=1 << 30, more=MOVED)
def split(node: Node, *, axis: int = 0, split: Ints | None = None, num_outputs: int | None = None) -> Run:
    """Sizes are an attribute before opset 13, an input since; none: equal parts, the last may be smaller."""
    parts = len(node.outputs)
    if num_outputs is not None and num_outputs != parts:
        raise Refusal(f"attribute num_outputs={num_outputs} with {parts} outputs")
    fixed = None if split is None else list(split)

    def run(x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
        wanted = sizes or fixed or -(-x.shape[axis] // parts)
        return torch.split(x, wanted, axis)

    return run


@op("Expand", "input shape", host="shape", more=MOVED)
def expand(node: Node) -> Run:
    """Broadcasts both ways: a 1 in the shape keeps the axis of the input."""

    def run(x: Tensor, shape: list[int]) -> Tensor:
        new = len(shape) - x.dim()
        if new < 0:
            shape, new = [1] * -new + list(shape), 0
        # -1 keeps an axis that exists
        return x.expand([-1 if size == 1 and i >= new else size for i, size in enumerate(shape)])

    return run


@op("Tile", "input repeats", host="repeats", more=MOVED)
def tile(node: Node) -> Run:
    return lambda x, repeats: x.repeat(repeats)


@op("DepthToSpace", "input", more=MOVED)
def depth_to_space(node: Node, *, blocksize: int, mode: str = "DCR") -> Run:
    """[N, C b^2, H, W] -> [N, C, H b, W b]"""
    if mode not in ("DCR", "CRD"):
        raise Refusal(f"attribute mode={mode!r}")
    if mode == "CRD":
        return lambda x: torch.pixel_shuffle(x, blocksize)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w)
        return y.permute(0, 3, 4, 1, 5, 2).reshape(n, c // blocksize**2, h * blocksize, w * blocksize)

    return run


@op("SpaceToDepth", "input", more=MOVED)
def space_to_depth(node: Node, *, blocksize: int, mode: str = "DCR") -> Run:
    """[N, C, H, W] -> [N, b^2 C, H / b, W / b]"""
    if mode not in ("DCR", "CRD"):
        raise Refusal(f"attribute mode={mode!r}")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
        order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
        return y.permute(order).reshape(n, c * blocksize**2, h // blocksize, w // blocksize)

    return run


@op("Shape", "data", more=MOVED)
def shape(node: Node, *, start: int = 0, end: int | None = None) -> Run:
    """A host value: a list of numbers."""
    return lambda x: list(x.shape[start:end])


@op("Size", "data", more=MOVED)
def size(node: Node) -> Run:
    """A host value: a number."""
    return lambda x: x.numel()
