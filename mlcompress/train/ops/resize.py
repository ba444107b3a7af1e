"""Resampling: one axis after another, each output a mix of the elements around its place in the input."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, is_tracing, op

Ints = Sequence[int]
Coordinate = Callable[[np.ndarray, float, int, int], np.ndarray]
"""(position in the result, scale, input length, result length) -> position in the input (ONNX Resize)"""


def _symmetric(x: np.ndarray, scale: float, n: int, m: int) -> np.ndarray:
    """Half pixel, about the centre of the result that the scale would give were lengths no whole numbers."""
    return n / 2 * (1 - m / (scale * n)) + (x + 0.5) / scale - 0.5


COORDINATES: dict[str, Coordinate] = {
    "half_pixel": lambda x, scale, n, m: (x + 0.5) / scale - 0.5,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda x, scale, n, m: (x + 0.5) / scale - 0.5 if m > 1 else x * 0,
    "asymmetric": lambda x, scale, n, m: x / scale,
    "align_corners": lambda x, scale, n, m: x * (n - 1) / (m - 1) if m > 1 else x * 0,
}
ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
WHOLE = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Modes in which enlarging by a whole factor repeats each element."""


@dataclass(frozen=True)
class _Target:
    """What one axis becomes."""

    length: int
    scale: float
    region: tuple[float, float] | None = None
    """The part of the axis that is read, in shares of it, when cropping."""


@dataclass(frozen=True)
class _Mode:
    mode: str
    coordinates: str
    rounding: str
    cubic: float = -0.75
    exclude: bool = False
    antialias: bool = False
    outside: float | None = None
    """What stands where a crop reaches beyond the input."""

    def run(self, x: Tensor, targets: dict[int, _Target]) -> Tensor:
        if _torch_agrees(x, targets, self):
            shape = [targets[dim].length if dim in targets else x.shape[dim] for dim in range(2, x.dim())]
            name = self.mode if self.mode == "nearest" else ("linear", "bilinear", "trilinear")[x.dim() - 3]
            corners = None if self.mode == "nearest" else self.coordinates == "align_corners"
            if is_tracing() and all(isinstance(target.scale, float) for target in targets.values()):
                # torch multiplies the lengths itself, in the trace; those in `shape` are of this run
                scales = [targets[dim].scale if dim in targets else 1.0 for dim in range(2, x.dim())]
                return F.interpolate(
                    x, scale_factor=scales, mode=name, align_corners=corners, recompute_scale_factor=True
                )
            return F.interpolate(x, shape, mode=name, align_corners=corners)
        for dim, target in targets.items():
            position = self.positions(target, x.shape[dim])
            beyond = (position < 0) | (position > x.shape[dim] - 1)
            x = self.axis(x, dim, position, target.scale)
            if target.region is not None and beyond.any():
                where = torch.from_numpy(beyond).to(x.device).reshape(_along(x, dim))
                x = x.masked_fill(where, self.outside or 0.0)
        return x

    def positions(self, target: _Target, length: int) -> np.ndarray:
        steps = np.arange(target.length, dtype=np.float64)
        if target.region is None:
            return COORDINATES[self.coordinates](steps, target.scale, length, target.length)
        start, end = map(np.float32, target.region)
        if target.length == 1:
            return steps + (start + end) * (length - 1) / 2
        single = steps.astype(np.float32)  # as onnxruntime, so that what lies between two is rounded alike
        return start * (length - 1) + single * (end - start) * (length - 1) / (target.length - 1)

    def axis(self, x: Tensor, dim: int, position: np.ndarray, scale: float) -> Tensor:
        last = x.shape[dim] - 1

        def pick(index: np.ndarray) -> Tensor:
            where = torch.from_numpy(index.clip(0, last).astype(np.int64)).to(x.device)
            return x.index_select(dim, where)

        if self.mode == "nearest":
            return pick(ROUNDING[self.rounding](position))
        if self.mode == "linear" and not self.exclude and not self.antialias:
            position = position.clip(0, last)
            low = np.floor(position)
            share = torch.from_numpy(position - low).to(x.device, x.dtype).reshape(_along(x, dim))
            return torch.lerp(pick(low), pick(low + 1), share)
        matrix = torch.from_numpy(self.matrix(position, last + 1, scale)).to(x.device, x.dtype)
        return (x.movedim(dim, -1) @ matrix.t()).movedim(-1, dim)

    def matrix(self, position: np.ndarray, length: int, scale: float) -> np.ndarray:
        """Share of each input (column) in each output (row). Beyond the ends the last element is repeated, or
        left out (`exclude`).
        """
        shrink = min(scale, 1.0) if self.antialias else 1.0
        radius = (2 if self.mode == "cubic" else 1) / shrink
        reach = math.ceil(radius)
        index = np.floor(position)[:, None] + np.arange(1 - reach, reach + 1)
        distance = np.abs(index - position[:, None]) * shrink
        share = _cubic(distance, self.cubic) if self.mode == "cubic" else np.maximum(1 - distance, 0)
        if self.exclude:
            share = share * ((index >= 0) & (index < length))
        share = share / share.sum(1, keepdims=True)
        matrix = np.zeros((len(position), length))
        rows = np.broadcast_to(np.arange(len(position))[:, None], index.shape)
        np.add.at(matrix, (rows, index.clip(0, length - 1).astype(np.int64)), share)
        return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (Keys 1981) of a distance."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _along(x: Tensor, dim: int) -> list[int]:
    return [-1 if d == dim else 1 for d in range(x.dim())]


def _torch_agrees(x: Tensor, targets: dict[int, _Target], how: _Mode) -> bool:
    """Spatial axes only, and either nearest by whole factors, or linear with the scale that sizes imply."""
    if not 3 <= x.dim() <= 5 or min(targets, default=0) < 2 or how.mode == "cubic":
        return False
    if how.exclude or how.antialias or how.outside is not None or not x.is_floating_point():
        return False
    if how.mode == "nearest":
        return (how.coordinates, how.rounding) in WHOLE and all(
            target.length == target.scale * x.shape[dim] and target.length % x.shape[dim] == 0
            for dim, target in targets.items()
        )
    implied = all(target.scale == target.length / x.shape[dim] for dim, target in targets.items())
    return implied and how.coordinates in ("half_pixel", "align_corners")


@op("Resize", "X roi scales sizes", host="roi scales sizes")
def resize(
    node: Node,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str | None = None,
    nearest_mode: str | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    antialias: int = 0,
    axes: Ints | None = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> Run:
    """`roi` and `extrapolation_value` only concern cropping, `cubic_coeff_a` only cubic, `nearest_mode` only
    nearest, `keep_aspect_ratio_policy` only sizes.
    """
    if node.opset < 11:  # Upsample under another name: X, scales
        return _upsampling(node, mode, None)
    coordinates = coordinate_transformation_mode or "half_pixel"
    cropping = coordinates == "tf_crop_and_resize"
    rounding = nearest_mode or "round_prefer_floor"
    refused = {
        "mode": mode not in ("nearest", "linear", "cubic"),
        "coordinate_transformation_mode": coordinates not in COORDINATES and not cropping,
        "nearest_mode": mode == "nearest" and rounding not in ROUNDING,
        "antialias": bool(antialias) and mode == "nearest",
        "keep_aspect_ratio_policy": keep_aspect_ratio_policy not in ("stretch", "not_larger", "not_smaller"),
    }
    wrong = [f"attribute {name}={node.attributes[name]!r}" for name, bad in refused.items() if bad]
    whole = coordinates == "align_corners" and not node.has(3)  # scales must give whole lengths
    if wrong:
        raise Refusal(", ".join(wrong))
    if whole and node.constant(2) is None:
        raise Refusal("attribute coordinate_transformation_mode='align_corners' with computed scales")
    if mode != "nearest":
        node.floats_only(0, "X")
    how = _Mode(
        mode,
        coordinates,
        rounding,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value if cropping else None,
    )

    def run(x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
        dims = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        if sizes and keep_aspect_ratio_policy != "stretch":
            choose = min if keep_aspect_ratio_policy == "not_larger" else max
            scale = choose(size / x.shape[dim] for dim, size in zip(dims, sizes, strict=True))
            scales = [scale] * len(dims)
            sizes = [math.floor(scale * x.shape[dim] + 0.5) for dim in dims]
        elif sizes:
            scales = [size / x.shape[dim] for dim, size in zip(dims, sizes, strict=True)]
        lengths = [x.shape[dim] * scale for dim, scale in zip(dims, scales, strict=True)] if whole else []
        if any(abs(length - round(length)) > 1e-4 for length in lengths):
            # onnx and onnxruntime disagree about the corners then
            raise RuntimeError(f"align_corners with scales that give fractions of elements: {lengths}")
        regions = None if not cropping else list(zip(roi[: len(dims)], roi[len(dims) :], strict=True))
        return how.run(x, _targets(x, dims, scales, sizes, regions))

    return run


def _targets(
    x: Tensor, dims: Ints, scales: Sequence[float], sizes: Ints | None, regions: Any
) -> dict[int, _Target]:
    """The axes that change."""
    targets = {}
    for index, (dim, scale) in enumerate(zip(dims, scales, strict=True)):
        length = x.shape[dim]
        new = sizes[index] if sizes else int(np.floor(np.float32(length) * np.float32(scale)))
        region = None if regions is None else regions[index]
        if new != length or scale != 1 or region not in (None, (0.0, 1.0)):
            targets[dim] = _Target(new, scale, region)
    return targets


@op("Upsample", "X scales", host="scales")
def upsample(node: Node, *, mode: str = "nearest", scales: Sequence[float] | None = None) -> Run:
    """Scales are an attribute before opset 9, an input since."""
    return _upsampling(node, mode, None if scales is None else list(scales))


def _upsampling(node: Node, mode: str, fixed: list[float] | None) -> Run:
    if mode not in ("nearest", "linear"):
        raise Refusal(f"attribute mode={mode!r}")
    if mode != "nearest":
        node.floats_only(0, "X")
    how = _Mode(mode, "asymmetric", "floor")

    def run(x: Tensor, scales: Any = None) -> Tensor:
        return how.run(x, _targets(x, range(x.dim()), fixed or scales, None, None))

    return run
