"""Samples in batches of a size that the model takes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlcompress.graph.signature import known_axis

if TYPE_CHECKING:
    from mlcompress.data.dataset import Batch, Dataset


def fixed_batch(model: ir.Model) -> int | None:
    """The batch size that the model's inputs declare; None where an input leaves it open."""
    firsts = [known_axis(value.shape[0]) for value in model.graph.inputs if value.shape]
    first = firsts[0] if all(isinstance(axis, int) for axis in firsts) and firsts else None
    return first if isinstance(first, int) else None


def batches(model: ir.Model, data: "Dataset", size: int) -> Iterator["Batch"]:
    """All samples, `size` at a time, or as many as a fixed batch has.

    The last fixed batch is filled up with the last sample; an open one is shorter.
    """
    fixed = fixed_batch(model)
    step = fixed or size
    for first in range(0, len(data), step):
        ids = np.arange(first, first + step)
        yield data.take(np.minimum(ids, len(data) - 1) if fixed else ids[ids < len(data)])


def take(model: ir.Model, data: "Dataset", count: int) -> dict[str, np.ndarray]:
    """Inputs of one run: the first `count` samples, or a fixed batch; over again where they are too few."""
    return dict(data.take(np.arange(fixed_batch(model) or count) % len(data)).inputs)
