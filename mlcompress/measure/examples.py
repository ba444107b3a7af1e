"""Several runs' inputs that differ in every free length: what is frozen to one length shows in another."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset
    from mlcompress.graph import Signature, Tensor

Feed = dict[str, np.ndarray]
BATCHES = (2, 3, 1)
"""2 first: a batch of 1 broadcasts, so that a trace made with it may fit no other."""
FACTORS = (0.5, 2.0, 1.0)
"""Tried in this order on the free axes that are not the batch: nets have least and greatest lengths."""


def examples(
    signature: "Signature",
    usual: Mapping[str, Sequence[int]],
    kept: Collection[str],
    data: "Dataset | None",
    runs: Callable[[Feed], bool],
) -> list[Feed]:
    """One feed per batch size of BATCHES, the second with other lengths in the other free axes too.

    Axis 0 is the batch where it is dynamic, and so is every axis of the same symbol. Values are samples where
    these fit, else standard normal numbers, and zeros and ones for integers and booleans.

    Args:
        usual: a static shape for each input.
        kept: inputs whose axes keep their usual lengths, except for the batch.
        data: samples; each feed takes others.
        runs: whether the model takes a feed.
    """
    feeds = []
    for number, batch in enumerate(BATCHES):
        for factor in FACTORS if number == 1 else (1.0,):
            shapes = _shapes(signature, usual, kept, batch, factor)
            feed = _values(signature, shapes, data, first=sum(BATCHES[:number]))
            if runs(feed):
                break
        feeds.append(feed)
    return feeds


def _shapes(
    signature: "Signature",
    usual: Mapping[str, Sequence[int]],
    kept: Collection[str],
    batch: int,
    factor: float,
) -> dict[str, tuple[int, ...]]:
    batches = {
        tensor.shape[0] for tensor in signature.inputs if tensor.shape and isinstance(tensor.shape[0], str)
    }
    tied = {axis for tensor in signature.inputs if tensor.name in kept for axis in tensor.shape}

    def length(tensor: "Tensor", index: int, size: int) -> int:
        axis = tensor.shape[index]
        if axis in batches or (index == 0 and axis is None):
            return batch
        is_free = not isinstance(axis, int) and axis not in tied and tensor.name not in kept
        return max(1, int(size * factor)) if is_free else size

    return {
        tensor.name: tuple(length(tensor, index, size) for index, size in enumerate(usual[tensor.name]))
        for tensor in signature.inputs
    }


def _values(
    signature: "Signature", shapes: Mapping[str, tuple[int, ...]], data: "Dataset | None", first: int
) -> Feed:
    generator = np.random.default_rng(first)
    feed = {}
    for tensor in signature.inputs:
        shape = shapes[tensor.name]
        sample = None
        if data is not None and len(data) and shape:
            sample = data.take(np.arange(first, first + shape[0]) % len(data)).inputs.get(tensor.name)
        if sample is not None and sample.shape == shape and sample.dtype == tensor.dtype:
            feed[tensor.name] = sample
        elif tensor.dtype.kind == "f":
            feed[tensor.name] = generator.standard_normal(shape).astype(tensor.dtype)
        else:
            feed[tensor.name] = generator.integers(0, 2, shape).astype(tensor.dtype)
    return feed
