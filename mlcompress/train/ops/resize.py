"""Padding and resampling."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op

Ints = Sequence[int]
Coordinate = Callable[[np.ndarray, float, int, int], np.ndarray]
"""(position in the result, scale, input length, result length) -> position in the input (ONNX Resize)"""


@op("Pad", "data pads constant_value axes", host="pads axes")
def pad(node: Node, *, mode: str = "constant", pads: Ints | None = None, value: float = 0.0) -> Run:
    """Pads are an attribute before opset 11, an input since: begins, then ends, of `axes` or of all."""
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Refusal(f"attribute mode={mode!r}")
    given = node.fixed(2, "constant_value")
    fill = value if given is None else given.item()
    fixed = None if pads is None else list(pads)

    def run(x: Tensor, amounts: Any = None, filled: Any = None, axes: Any = None) -> Tensor:
        edges = amounts if fixed is None else fixed
        dims = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        begin = dict(zip(dims, edges[: len(edges) // 2], strict=True))
        end = dict(zip(dims, edges[len(edges) // 2 :], strict=True))
        if mode == "constant":
            pairs = [edge for d in range(x.dim() - 1, -1, -1) for edge in (begin.get(d, 0), end.get(d, 0))]
            return F.pad(x, pairs, value=fill)
        for dim in dims:
            if begin[dim] or end[dim]:
                index = _outside(np.arange(-begin[dim], x.shape[dim] + end[dim]), x.shape[dim], mode)
                x = x.index_select(dim, torch.from_numpy(index).to(x.device))
        return x

    return run


def _outside(position: np.ndarray, length: int, mode: str) -> np.ndarray:
    """Where a position outside of an axis is read."""
    if mode == "edge":
        return position.clip(0, length - 1)
    if mode == "wrap":
        return position % length
    if length == 1:
        return position * 0
    return length - 1 - abs(length - 1 - position % (2 * length - 2))


COORDINATES: dict[str, Coordinate] = {
    "half_pixel": lambda x, scale, n, m: (x + 0.5) / scale - 0.5,
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


@op("Resize", "X roi scales sizes", host="scales sizes")
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
    """Nearest and linear in every coordinate mode but cropping.

    `roi` and `extrapolation_value` only concern cropping, `cubic_coeff_a` only cubic.
    """
    if node.opset < 11:  # Upsample under another name: X, scales
        return _resample(mode, "asymmetric", "floor", lambda scales: scales.tolist(), None)
    coordinates = coordinate_transformation_mode or "half_pixel"
    rounding = nearest_mode or "round_prefer_floor"
    refused = {
        "mode": mode not in ("nearest", "linear"),
        "coordinate_transformation_mode": coordinates not in COORDINATES,
        "nearest_mode": mode == "nearest" and rounding not in ROUNDING,
        "antialias": bool(antialias),
        "keep_aspect_ratio_policy": keep_aspect_ratio_policy != "stretch",
        "exclude_outside": bool(exclude_outside) and mode == "cubic",
    }
    wrong = [f"attribute {name}={node.attributes[name]!r}" for name, bad in refused.items() if bad]
    if wrong:
        raise Refusal(", ".join(wrong))
    return _resample(mode, coordinates, rounding, lambda roi=None, scales=None, sizes=None: scales, axes)


@op("Upsample", "X scales", host="scales")
def upsample(node: Node, *, mode: str = "nearest", scales: Sequence[float] | None = None) -> Run:
    """Scales are an attribute before opset 9, an input since."""
    fixed = None if scales is None else list(scales)
    return _resample(mode, "asymmetric", "floor", lambda given=None, *_: fixed or given, None)


def _resample(mode: str, coordinates: str, rounding: str, scales_of: Run, axes: Ints | None) -> Run:
    """One axis after another: pick the nearest element, or mix two neighbours; by torch where it agrees."""
    if mode not in ("nearest", "linear"):
        raise Refusal(f"attribute mode={mode!r}")

    def run(x: Tensor, *rest: Any) -> Tensor:
        scales = scales_of(*rest)
        sizes = rest[2] if len(rest) > 2 else None
        dims = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        targets: dict[int, tuple[int, float]] = {}
        for index, dim in enumerate(dims):
            length = x.shape[dim]
            new = sizes[index] if sizes else int(np.floor(np.float32(length) * np.float32(scales[index])))
            scale = new / length if sizes else scales[index]
            if new != length or scale != 1:
                targets[dim] = (new, scale)
        if _torch_agrees(x, targets, mode, coordinates, rounding):
            shape = [targets.get(dim, (x.shape[dim],))[0] for dim in range(2, x.dim())]
            name = mode if mode == "nearest" else ("linear", "bilinear", "trilinear")[x.dim() - 3]
            corners = None if mode == "nearest" else coordinates == "align_corners"
            return F.interpolate(x, shape, mode=name, align_corners=corners)
        for dim, (new, scale) in targets.items():
            position = COORDINATES[coordinates](np.arange(new, dtype=np.float64), scale, x.shape[dim], new)
            x = _axis(x, dim, position, mode, rounding)
        return x

    return run


WHOLE = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Modes in which enlarging by a whole factor repeats each element."""


def _torch_agrees(
    x: Tensor, targets: dict[int, tuple[int, float]], mode: str, coordinates: str, rounding: str
) -> bool:
    """Spatial axes only, and either nearest by whole factors, or linear with the scale that sizes imply."""
    if not 3 <= x.dim() <= 5 or min(targets, default=0) < 2:
        return False
    if mode == "nearest":
        return (coordinates, rounding) in WHOLE and all(
            new == scale * x.shape[dim] and new % x.shape[dim] == 0 for dim, (new, scale) in targets.items()
        )
    implied = all(scale == new / x.shape[dim] for dim, (new, scale) in targets.items())
    return implied and coordinates in ("half_pixel", "align_corners")


def _axis(x: Tensor, dim: int, position: np.ndarray, mode: str, rounding: str) -> Tensor:
    last = x.shape[dim] - 1

    def pick(index: np.ndarray) -> Tensor:
        where = torch.from_numpy(index.clip(0, last).astype(np.int64)).to(x.device)
        return x.index_select(dim, where)

    if mode == "nearest":
        return pick(ROUNDING[rounding](position))
    position = position.clip(0, last)
    low = np.floor(position)
    share = torch.from_numpy((position - low).astype(np.float32)).to(x.device, x.dtype)
    share = share.reshape([-1 if d == dim else 1 for d in range(x.dim())])
    return torch.lerp(pick(low), pick(low + 1), share)
