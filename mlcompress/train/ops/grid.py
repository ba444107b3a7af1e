"""Sampling at computed places."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op

MODES = {
    "bilinear": "bilinear",
    "linear": "bilinear",
    "bicubic": "bicubic",
    "cubic": "bicubic",
    "nearest": "nearest",
}
"""ONNX mode (of opset 16 and of opset 20) -> torch's name."""


@op("GridSample", "X grid")
def grid_sample(
    node: Node, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Run:
    """X: [N, C, D1, D2, ...], grid: [N, E1, E2, ..., rank] in -1 to 1, the last axis of X first."""
    if mode not in MODES:
        raise Refusal(f"attribute mode={mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise Refusal(f"attribute padding_mode={padding_mode!r}")
    node.floats_only(0, "X")
    name, corners = MODES[mode], bool(align_corners)
    return lambda x, grid: F.grid_sample(x, grid, name, padding_mode, corners)


@op("AffineGrid", "theta size", host="size")
def affine_grid(node: Node, *, align_corners: int = 0) -> Run:
    """The grid for GridSample that theta [N, rank, rank + 1] maps a regular one of `size` to."""

    def run(theta: Tensor, size: Any) -> Tensor:
        return F.affine_grid(theta, list(size), bool(align_corners))

    return run
