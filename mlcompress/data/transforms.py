"""`transforms`: the steps from stored values to model inputs, planned on shapes before any value is read.

Which input a step changes:
- `scale`, `normalize`: inputs that the model takes as floats (token ids are never scaled);
- `layout`, `resize`, `crop`: image inputs, those with four axes in the model;
- `cast`: to a float, inputs that the model takes as floats; to an integer, those that it takes as integers.
Constants (one value for all samples) are never changed. Integers become float32 at the first arithmetic step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlcompress.data.columns import Array, ModelInput, axes, is_float
from mlcompress.data.images import crop_start, pillow, resize_planes, resized
from mlcompress.recipe.sections import Transform

Step = Callable[[Array], Array]
"""A batch [B, ...] to a batch."""

USUAL_CHANNELS = (1, 3, 4)
"""Channel counts of stored images, for a model whose channel axis is dynamic."""


@dataclass(frozen=True)
class Form:
    """What a sample looks like between two steps."""

    shape: tuple[int, ...]
    """without the batch axis"""
    dtype: np.dtype[Any]
    order: str | None = None
    """NCHW or NHWC, once it is known"""
    target: str = "NCHW"
    """the order that the model wants"""


class Misfit(Exception):
    """A step cannot be applied to samples of this form; the text says why and what to do."""


def applies(step: Transform, tensor: ModelInput) -> bool:
    """Whether the step changes this model input (the rules are at the top of this file)."""
    if step.cast is not None:
        return is_float(tensor.dtype) == is_float(np.dtype(step.cast)) and tensor.dtype.kind != "b"
    if step.scale is not None or step.normalize is not None:
        return is_float(tensor.dtype)
    return len(tensor.shape) == 4


def plan(steps: Sequence[Transform], form: Form, tensor: ModelInput) -> tuple[Form, list[Step]]:
    """The form after all steps, and the functions that do them.

    Raises Misfit, or UnsupportedError for `resize` without Pillow.
    """
    form = replace(form, target=_target(steps, tensor))
    functions = []
    for step in steps:
        if applies(step, tensor):
            form, function = _plan_one(step, form, tensor)
            functions.append(function)
    return form, functions


def _target(steps: Sequence[Transform], tensor: ModelInput) -> str:
    """The model's axis order: that of a layout step, else told from its channel count, else NCHW."""
    named = [str(step.layout) for step in steps if step.layout is not None]
    if named:
        return named[-1]
    is_last = (
        len(tensor.shape) == 4 and tensor.shape[3] in USUAL_CHANNELS and tensor.shape[1] not in USUAL_CHANNELS
    )
    return "NHWC" if is_last else "NCHW"


def _plan_one(step: Transform, form: Form, tensor: ModelInput) -> tuple[Form, Step]:
    if step.scale is not None:
        return _scale(step.scale, form)
    if step.normalize is not None:
        return _normalize(step.normalize.mean, step.normalize.std, form)
    if step.cast is not None:
        return _cast(np.dtype(step.cast), form)
    if step.crop is not None:
        return _crop(step.crop, form, tensor)
    if step.resize is not None:
        return _resize(step.resize, form, tensor)
    return _layout(str(step.layout), form, tensor)


def _scale(factor: float, form: Form) -> tuple[Form, Step]:
    dtype = _arithmetic(form.dtype)
    return replace(form, dtype=dtype), lambda batch: batch.astype(dtype) * dtype.type(factor)


def _normalize(mean: list[float], std: list[float], form: Form) -> tuple[Form, Step]:
    dtype = _arithmetic(form.dtype)
    if len(mean) != len(std):
        raise Misfit(f"normalize has {len(mean)} means and {len(std)} stds; give one pair per channel")
    along: tuple[int, ...] = ()
    if len(mean) > 1:
        axis = _channel_axis(form, len(mean))
        along = tuple(len(mean) if place == axis else 1 for place in range(len(form.shape)))
    means, stds = (
        (np.array(values, dtype).reshape(along) for values in (mean, std)) if along else (mean[0], std[0])
    )
    centre, spread = np.asarray(means, dtype), np.asarray(stds, dtype)
    return replace(form, dtype=dtype), lambda batch: (batch.astype(dtype) - centre) / spread


def _cast(dtype: np.dtype[Any], form: Form) -> tuple[Form, Step]:
    return replace(form, dtype=dtype), lambda batch: batch.astype(dtype)


def _crop(side: int, form: Form, tensor: ModelInput) -> tuple[Form, Step]:
    form, first = _rows_axis(form, tensor)
    height, width = form.shape[first : first + 2]
    if min(height, width) < side:
        raise Misfit(f"crop: {side} is larger than the images, {height} x {width}; resize first or crop less")
    top, left = crop_start(height, side), crop_start(width, side)
    window = (slice(None),) * (first + 1) + (slice(top, top + side), slice(left, left + side))
    shape = (*form.shape[:first], side, side, *form.shape[first + 2 :])
    return replace(form, shape=shape), lambda batch: batch[window]


def _resize(shorter: int, form: Form, tensor: ModelInput) -> tuple[Form, Step]:
    pillow("transforms: resize")
    if form.dtype not in (np.uint8, np.float32):
        raise Misfit(
            f"resize takes uint8 or float32 images, not {form.dtype.name}; cast to float32 before it"
        )
    form, first = _rows_axis(form, tensor)
    height, width = form.shape[first : first + 2]
    new_height, new_width = resized(height, width, shorter)
    shape = (*form.shape[:first], new_height, new_width, *form.shape[first + 2 :])

    def step(batch: Array) -> Array:
        planes = np.moveaxis(batch, (first + 1, first + 2), (-2, -1))
        done = resize_planes(np.ascontiguousarray(planes).reshape(-1, height, width), new_height, new_width)
        return np.moveaxis(
            done.reshape(*planes.shape[:-2], new_height, new_width), (-2, -1), (first + 1, first + 2)
        )

    return replace(form, shape=shape), step


def _layout(order: str, form: Form, tensor: ModelInput) -> tuple[Form, Step]:
    if len(form.shape) == 2:  # [H, W]: the one channel gets its axis
        shape = (1, *form.shape) if order == "NCHW" else (*form.shape, 1)
        axis = 1 if order == "NCHW" else 3
        return replace(form, shape=shape, order=order), lambda batch: np.expand_dims(batch, axis)
    if _order(form, tensor) == order:
        return replace(form, order=order), lambda batch: batch
    if order == "NCHW":
        height, width, channels = form.shape
        return replace(form, shape=(channels, height, width), order=order), lambda batch: np.moveaxis(
            batch, 3, 1
        )
    channels, height, width = form.shape
    return replace(form, shape=(height, width, channels), order=order), lambda batch: np.moveaxis(batch, 1, 3)


def _arithmetic(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if is_float(dtype) else np.dtype(np.float32)


def _rows_axis(form: Form, tensor: ModelInput) -> tuple[Form, int]:
    """The sample axis that counts rows of pixels (columns follow it), and the form with its order settled."""
    if len(form.shape) == 2:
        return form, 0
    order = _order(form, tensor)
    return replace(form, order=order), 1 if order == "NCHW" else 0


def _order(form: Form, tensor: ModelInput) -> str:
    """NCHW or NHWC: where the model's channel count is found in the stored shape."""
    if form.order is not None:
        return form.order
    if len(form.shape) != 3:
        raise Misfit(f"an image has 2 or 3 axes, these samples have {list(form.shape)}")
    channels = tensor.shape[1 if form.target == "NCHW" else 3]
    wanted = {channels} if isinstance(channels, int) else set(USUAL_CHANNELS)
    first, last = form.shape[0] in wanted, form.shape[-1] in wanted
    if first == last:
        raise Misfit(
            f"cannot tell the channel axis of samples {list(form.shape)} for the model's "
            f"{axes(tensor.shape)}; store them in the model's order and leave this step out"
        )
    return "NCHW" if first else "NHWC"


def _channel_axis(form: Form, count: int) -> int:
    """The sample axis that holds `count` channels (or features)."""
    last = len(form.shape) - 1
    places = {"NCHW": [0], "NHWC": [last], None: sorted({0, last} if last >= 0 else ())}[form.order]
    found = [place for place in places if form.shape[place] == count]
    if len(found) != 1:
        raise Misfit(
            f"normalize has {count} means, and samples {list(form.shape)} have no one axis of that length"
        )
    return found[0]


def unused(steps: Sequence[Transform], tensors: Sequence[ModelInput]) -> list[int]:
    """Positions of the steps that change none of these inputs."""
    return [place for place, step in enumerate(steps) if not any(applies(step, tensor) for tensor in tensors)]
