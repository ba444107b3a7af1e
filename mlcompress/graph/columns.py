"""A weighted node as a matrix product: its weight as rows, what it reads as columns.

Conv, Gemm and MatMul all compute W X per group; methods that fit weights to activations see only that.
Shapes: W [G, N, K], X [G, K, M], with G groups (1 but for Conv), N output channels of a group, K inputs of
one output, and M positions.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant

POSITIONS = 512
"""Of one sample's feature map, evenly spread, for second moments."""
MOST_COLUMNS = 8192
"""Inputs of one output above which a layer's second moments take more than 512 MB."""


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def output_axis(node: ir.Node) -> int:
    """The weight axis of a Conv, Gemm or MatMul that holds its output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def to_rows(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """The weight (or scales that broadcast against it) of a Conv, Gemm or MatMul as [G, N, K]."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return weight[None] if output_axis(node) == 0 else weight.T[None]


def from_rows(node: ir.Node, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The opposite of `to_rows`; `shape` is that of the weight."""
    if node.op_type == "Conv":
        return rows.reshape(shape)
    return rows[0] if output_axis(node) == 0 else np.ascontiguousarray(rows[0].T)


def to_columns(node: ir.Node, values: np.ndarray, kernel: tuple[int, ...], most: int) -> np.ndarray:
    """The node's input as [G, K, M]: at all positions, or at `most` evenly spread ones.

    `kernel`: spatial shape of a Conv's weight. Values outside a Conv's input are 0.
    """
    if node.op_type != "Conv":
        flat = values.reshape(-1, values.shape[-1])
        return np.asarray(flat[_spread(len(flat), most)].T[None])
    groups, rank = attribute(node, "group", 1), len(kernel)
    strides, dilations = _numbers(node, "strides", rank), _numbers(node, "dilations", rank)
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    pads = _pads(node, values.shape[2:], reach, strides)
    padded = np.pad(values, [(0, 0), (0, 0), *pads])
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    steps: Any = tuple(slice(None, None, step) for step in (1, 1, *strides, *dilations))
    windows = windows[steps]
    samples, channels, *sides = windows.shape[: 2 + rank]
    chosen = np.unravel_index(_spread(samples * int(np.prod(sides)), most), (samples, *sides))
    # Advanced indices around a slice come first: [M, C, kernel].
    columns = np.asarray(windows[(chosen[0], slice(None), *chosen[1:])])
    grouped = columns.reshape(len(columns), groups, channels // groups * int(np.prod(kernel)))
    return np.ascontiguousarray(grouped.transpose(1, 2, 0))


def at_columns(node: ir.Node, values: np.ndarray, most: int) -> np.ndarray:
    """The output of a node with one group as [N, M], at the positions of `to_columns`."""
    moved = np.moveaxis(values, 1, -1) if node.op_type == "Conv" else values
    flat = moved.reshape(-1, moved.shape[-1])
    return np.asarray(flat[_spread(len(flat), most)].T)


def obstacle(node: ir.Node) -> str | None:
    """Why what the weight of a node multiplies cannot be told; None where it can."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return f"the inputs of {node.op_type} are not observed, only those of Conv, Gemm and MatMul"
    source, weight = node.inputs[0], constant(node.inputs[1])
    if source is None or source.const_value is not None or weight is None:
        return "its weight is not the second input beside a computed first one"
    if node.op_type != "Conv" and weight.ndim != 2:
        return f"its weight has {weight.ndim} axes, 2 are needed"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    return None


def columns(node: ir.Node) -> int:
    """K: inputs of one output."""
    shape = np.asarray(constant(node.inputs[1])).shape
    return int(np.prod(shape[1:])) if node.op_type == "Conv" else int(shape[1 - output_axis(node)])


def _spread(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` things: all of them, or an even spread."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _numbers(node: ir.Node, name: str, rank: int) -> tuple[int, ...]:
    found = node.attributes.get(name)
    return (1,) * rank if found is None else tuple(int(number) for number in found.value)


def _pads(
    node: ir.Node, sides: tuple[int, ...], reach: tuple[int, ...], strides: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis; SAME_LOWER puts the odd one in front."""
    found = node.attributes.get("auto_pad")
    mode = "NOTSET" if found is None else str(found.value)
    rank = len(sides)
    if not mode.startswith("SAME"):
        numbers = node.attributes.get("pads")
        pads = (0,) * (2 * rank) if numbers is None or mode == "VALID" else tuple(map(int, numbers.value))
        return list(zip(pads[:rank], pads[rank:], strict=True))
    pairs = []
    for side, size, stride in zip(sides, reach, strides, strict=True):
        total = max(0, (-(-side // stride) - 1) * stride + size - side)
        small, large = total // 2, total - total // 2
        pairs.append((large, small) if mode == "SAME_LOWER" else (small, large))
    return pairs
