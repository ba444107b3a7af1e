"""Positions of a sequence that no output depends on: what a layer holds there should not choose its ranges.

Batches of texts are filled up to one length, and a mask says where. Up to half of all vectors are then
padding, with values of their own.
"""

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.data.samples import take
from mlcompress.graph.session import ORT_ERRORS, session

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

SAMPLES = 8
TOLERANCE = 1e-4
"""Of the largest value of an output: a mask of -10000 is exact, a weight of exp(-20) nearly so."""
SEQUENCE = 3
"""Axes of [samples, positions, channels]."""


def find_mask(model: ir.Model, data: "Dataset") -> str | None:
    """The input that says which positions count, int, bool or float [N, T] of 1 and 0; None where none does.

    Decided by experiment, not by names: with other integers in its zero positions of every other input [N, T]
    all outputs must stay as they are, outputs [N, T, ...] where it is 1; with 1 everywhere they must not.
    """
    feed = take(model, data, min(SAMPLES, len(data)))
    shaped = [str(value.name) for value in model.graph.inputs if feed[str(value.name)].ndim == 2]
    for name in shaped:
        mask = feed[name]
        others = {
            other: feed[other]
            for other in shaped
            if other != name and feed[other].shape == mask.shape and feed[other].dtype.kind in "iu"
        }
        if others and _is_mask(mask) and _hides(model, feed, name, others):
            return name
    return None


def real(values: np.ndarray, mask: np.ndarray | None) -> list[np.ndarray]:
    """The positions that count of each sample, [1, t, C]; `values` as they are where no mask fits them.

    `values` [N, T, C], or [N * T, C]; `mask` [N, T], 0 for padding.
    """
    if mask is None or mask.all():
        return [values]
    if values.ndim == SEQUENCE - 1 and len(values) == mask.size and mask.shape[1] > 1:
        values = values.reshape(*mask.shape, -1)
    if values.ndim != SEQUENCE or values.shape[:2] != mask.shape:
        return [values]
    kept = mask != 0
    return [values[i, kept[i]][None] for i in range(len(values)) if kept[i].any()]


def _is_mask(mask: np.ndarray) -> bool:
    """1 and 0 alone, both of them, and something that counts in every sample."""
    return bool(np.isin(mask, (0, 1)).all() and (mask == 0).any() and (mask != 0).any(axis=1).all())


def _hides(model: ir.Model, feed: dict[str, np.ndarray], name: str, others: dict[str, np.ndarray]) -> bool:
    """Whether no output changes when the others take, where `name` is 0, what stands first where it is not,
    and some does when `name` is 1 everywhere: else it marks positions that nothing looks at from elsewhere.
    """
    kept = feed[name] != 0
    first = kept.argmax(axis=1)
    filled = {
        other: np.where(kept, array, array[np.arange(len(array)), first][:, None])
        for other, array in others.items()
    }
    if all(np.array_equal(filled[other], array) for other, array in others.items()):
        return False
    try:
        ready = session(graph.to_bytes(model))
        feeds = (feed, {**feed, **filled}, {**feed, name: np.ones_like(feed[name])})
        given, hidden, shown = (ready.run(None, one) for one in feeds)
    except ORT_ERRORS:
        return False  # whoever runs it next says why
    return _agree(given, hidden, kept) and not _agree(given, shown, kept)


def _agree(given: list[np.ndarray], found: list[np.ndarray], kept: np.ndarray) -> bool:
    """Are outputs the same; those of single positions where `kept` is true?"""
    for one, other in zip(given, found, strict=True):
        if one.shape[:2] == kept.shape and one.ndim >= SEQUENCE:
            one, other = one[kept], other[kept]
        largest = np.abs(one, dtype=np.float64).max(initial=0.0) if one.size else 0.0
        if not np.allclose(one, other, rtol=0, atol=TOLERANCE * largest):
            return False
    return True
