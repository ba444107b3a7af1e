"""Random changes of training batches. What happens to a sample depends on seed, epoch and sample id only.

So neither batch size nor order changes `flip`, `shift`, `replace` or the share of `mixup`; the partners of
`mixup` and `splice` come from the same batch, and where a text is cut depends on the partner's length. Images
are [B, C, H, W], texts [B, T, ...].
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlcompress.data.columns import Array, is_float
from mlcompress.data.dataset import Batch, Mix
from mlcompress.errors import DataError
from mlcompress.recipe.train import Augment, Replace


def augment(batch: Batch, steps: Sequence[Augment], rng_key: tuple[int, int]) -> Batch:
    """The batch after the steps, in order; `rng_key` is (seed, epoch). The arrays of `batch` stay untouched.

    flip: mirrors half of the images. shift: moves each image by up to that many pixels in both directions and
    fills with the nearest edge pixels (after normalising, zero is no longer black; the edge is right for any
    preprocessing). mixup: Zhang et al. 2018, x = lam * x_i + (1 - lam) * x_j with lam ~ Beta(alpha, alpha)
    per sample; labels stay and `Batch.mix` tells partner and lam, so that a loss can mix its targets.
    splice: half of the texts become the beginning of their own and the end of another one, cut at random
    tokens; labels go, since none belongs to such a text (the cut-and-paste of CutMix, Yun et al. 2019).
    replace: random tokens in the place of some, but for the first and the last of each text (the noise of
    BERT's masked tokens, Devlin et al. 2019, without the mask); labels stay.

    Raises DataError, naming the input, when there is no image to flip or shift or when an input cannot be
    mixed or spliced.
    """
    if not steps:
        return batch
    generators = [np.random.default_rng((*rng_key, int(sample))) for sample in batch.ids]
    for step in steps:
        if step.flip is not None:
            batch = _flip(batch, step.flip, generators)
        elif step.shift is not None:
            batch = _shift(batch, step.shift, generators)
        elif step.mixup is not None:
            batch = _mixup(batch, step.mixup, generators)
        elif step.splice is not None:
            batch = _splice(batch, step.splice, generators)
        elif step.replace is not None:
            batch = _replace(batch, step.replace, generators)
    return batch


def _images(batch: Batch, step: str) -> dict[str, Array]:
    varying = {name: array for name, array in batch.inputs.items() if name not in batch.constants}
    found = {name: array for name, array in varying.items() if array.ndim == 4}
    if not found:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in varying.items())
        raise DataError(
            f"train.augment: {step} needs images [batch, channels, height, width]; the inputs are {shapes}"
        )
    for name, array in found.items():
        if array.shape[3] in (1, 3, 4) and array.shape[1] > 4:
            raise DataError(
                f"train.augment: {step} needs channels first; input {name!r} is {list(array.shape)}, "
                "channels last; leave the augmentation out"
            )
    return found


def _flip(batch: Batch, direction: str, generators: list[np.random.Generator]) -> Batch:
    chosen = np.array([rng.random() < 0.5 for rng in generators], bool)
    axis = 3 if direction == "horizontal" else 2
    changed = {
        name: np.where(chosen[:, None, None, None], np.flip(array, axis), array)
        for name, array in _images(batch, "flip").items()
    }
    return replace(batch, inputs=batch.inputs | changed)


def _shift(batch: Batch, most: int, generators: list[np.random.Generator]) -> Batch:
    moves = np.array([rng.integers(-most, most + 1, 2) for rng in generators])
    changed = {name: _moved(array, moves) for name, array in _images(batch, "shift").items()}
    return replace(batch, inputs=batch.inputs | changed)


def _moved(images: Array, moves: Array) -> Array:
    """Pixel (r, c) comes from (r + down, c + right), clamped to the image."""
    count, channels, height, width = images.shape
    rows = np.clip(np.arange(height) + moves[:, :1], 0, height - 1)  # [B, H]
    columns = np.clip(np.arange(width) + moves[:, 1:], 0, width - 1)  # [B, W]
    sample, channel = np.arange(count)[:, None, None, None], np.arange(channels)[None, :, None, None]
    moved: Array = images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved


def _mixup(batch: Batch, alpha: float, generators: list[np.random.Generator]) -> Batch:
    varying = {name: array for name, array in batch.inputs.items() if name not in batch.constants}
    if batch.mix is not None:
        raise DataError("train.augment: mixup is named twice; once is enough")
    fixed = [f"{name} is {array.dtype.name}" for name, array in varying.items() if not is_float(array.dtype)]
    if fixed:
        raise DataError(f"train.augment: mixup needs inputs of floats; {fixed[0]}; leave mixup out")
    lam = np.array([rng.beta(alpha, alpha) for rng in generators], np.float32)
    index = _partners(np.array([rng.random() for rng in generators]))
    changed = {}
    for name, array in varying.items():
        share = lam.reshape(-1, *(1,) * (array.ndim - 1)).astype(array.dtype)
        changed[name] = share * array + (1 - share) * array[index]
    labels = None if batch.labels is None else batch.labels[index]
    return replace(batch, inputs=batch.inputs | changed, mix=Mix(index, labels, lam))


def _replace(batch: Batch, step: Replace, generators: list[np.random.Generator]) -> Batch:
    texts = _texts(batch, step.mask, "replace")
    ids = texts.get(step.input)
    if ids is None or ids.ndim != 2 or ids.dtype.kind not in "iu":
        told = "is no input" if ids is None else f"is {ids.dtype.name} {list(ids.shape)}"
        raise DataError(f"train.augment: replace.input: {step.input!r} {told}; name the one of token numbers")
    if step.tokens[1] - 1 > np.iinfo(ids.dtype).max:
        raise DataError(
            f"train.augment: replace.tokens: {step.tokens[1] - 1} is beyond {ids.dtype.name} of input"
            f" {step.input}; lower it"
        )
    kept = texts[step.mask] != 0
    first = np.cumsum(kept, axis=1) == 1
    last = np.cumsum(kept[:, ::-1], axis=1)[:, ::-1] == 1
    width, (low, high) = ids.shape[1], step.tokens
    draws = np.array([rng.random(1 + 2 * width) for rng in generators])
    chosen = kept & ~first & ~last & (draws[:, 1 : 1 + width] < 2 * step.share * draws[:, :1])
    numbers = (low + draws[:, 1 + width :] * (high - low)).astype(ids.dtype)
    return replace(batch, inputs=batch.inputs | {step.input: np.where(chosen, numbers, ids)})


def _splice(batch: Batch, mask: str, generators: list[np.random.Generator]) -> Batch:
    """Positions 0 ... a - 1 of a text, then the last t of its partner, then padding.

    With n tokens a is uniform in 1 ... n - 1 and t in 1 ... min(m - 1, T - a), m being the partner's. So what
    begins and ends every text stays where it is.
    """
    texts = _texts(batch, mask, "splice")
    kept = texts[mask] != 0
    lengths, width = kept.sum(axis=1), kept.shape[1]
    check_padding(kept, mask)
    draws = np.array([rng.random(4) for rng in generators])
    partner = _partners(draws[:, 0])
    head = 1 + (draws[:, 1] * (lengths - 1)).astype(np.int64)
    most = np.minimum(lengths[partner] - 1, width - head)
    tail = 1 + (draws[:, 2] * most).astype(np.int64)
    if kept.all():  # there is no padding to copy
        tail = width - head
    chosen = (draws[:, 3] < 0.5) & (lengths > 1) & (most > 0)
    place = np.arange(width)
    is_own = ~chosen[:, None] | (place < head[:, None])
    is_padding = chosen[:, None] & (place >= (head + tail)[:, None])
    source = place + (lengths[partner] - tail - head)[:, None]  # of the partner's tokens
    row, column = (
        np.where(is_own, np.arange(len(kept))[:, None], partner[:, None]),
        np.where(is_own, place, source),
    )
    changed = {}
    for name, array in texts.items():
        changed[name] = array[row, np.clip(column, 0, width - 1)]
        if is_padding.any():
            changed[name][is_padding] = array[~kept][0]
    return replace(batch, inputs=batch.inputs | changed, labels=None)


def check_padding(kept: Array, mask: str) -> None:
    """Raise DataError for a text [B, T] that does not begin where it is kept and end in what is not."""
    if (np.diff(kept.astype(np.int8), axis=1) > 0).any():
        raise DataError(f"train.augment: splice needs padding at the end, and {mask!r} has it elsewhere")


def _texts(batch: Batch, mask: str, step: str) -> dict[str, Array]:
    varying = {name: array for name, array in batch.inputs.items() if name not in batch.constants}
    if mask not in varying:
        raise DataError(
            f"train.augment: {step}: no input {mask!r}; name the one that is 0 at padding, of"
            f" {', '.join(varying)}"
        )
    shape = varying[mask].shape
    unlike = [name for name, array in varying.items() if array.shape[:2] != shape or len(shape) != 2]
    if unlike:
        raise DataError(
            f"train.augment: {step} needs inputs [batch, tokens, ...] of one length; {unlike[0]} is"
            f" {list(varying[unlike[0]].shape)}, {mask} {list(shape)}; leave {step} out"
        )
    return varying


def _partners(keys: Array) -> Array:
    """A random cycle through the batch: nobody is mixed with itself unless it is alone."""
    order = np.argsort(keys, kind="stable")
    index = np.empty_like(order)
    index[order] = np.roll(order, -1)
    return index
