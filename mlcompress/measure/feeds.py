"""Inputs for timing: real samples where there are data, seeded ones of the declared shapes otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlcompress.errors import DataError
from mlcompress.recipe.sections import Measure

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset
    from mlcompress.graph import Signature, Tensor


@dataclass(frozen=True)
class Made:
    """Inputs for one inference, by input name, and where each came from (`data` or `seeded`)."""

    inputs: dict[str, np.ndarray]
    sources: dict[str, str]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """What the dynamic axes became: latency figures belong to these shapes only."""
        return {name: list(array.shape) for name, array in self.inputs.items()}


def make(signature: "Signature", measure: Measure, data: "Dataset | None" = None, *, seed: int = 0) -> Made:
    """One inference's inputs for a model.

    Axis 0 is the batch where it is dynamic, and so is every other axis of the same symbol. Other dynamic axes
    get their length from `measure.shapes`, else from the data. Arrays come from the first samples of `data`
    where these fit the shape; else floats are standard normal, and integers and booleans are 1: in range as
    an index, a length and a mask alike. A model of fixed batch is measured at that.

    Args:
        signature: names, dtypes and shapes of the model's inputs.
        data: holds some or all of the inputs; its first samples are used, over again where they are too few.

    Raises:
        DataError: one line for each axis without a length and each entry of `measure` that does not fit.
    """
    batch, lines = _batch(signature, measure)
    samples = data.take(np.arange(batch) % len(data)).inputs if data is not None and len(data) else {}
    tensors = [_ranked(tensor, measure, samples) for tensor in signature.inputs]
    known = _lengths(tensors, measure, samples, batch, lines)
    inputs: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    generator = np.random.default_rng(seed)
    for tensor in tensors:
        sample = samples.get(tensor.name)
        shape = _shape(tensor, measure.shapes.get(tensor.name), sample, batch, known, lines)
        if sample is not None and sample.shape == shape and sample.dtype == tensor.dtype:
            inputs[tensor.name], sources[tensor.name] = sample, "data"
        else:
            inputs[tensor.name], sources[tensor.name] = _seeded(shape, tensor, generator), "seeded"
    if lines:
        raise DataError(*lines)
    return Made(inputs, sources)


def _batch(signature: "Signature", measure: Measure) -> tuple[int, list[str]]:
    """Samples per inference, and what is wrong with `measure.batch_size`, if it was set."""
    firsts = [axes[0] for tensor in signature.inputs if (axes := _axes(tensor))]
    fixed = firsts[0] if firsts and all(isinstance(axis, int) for axis in firsts) else None
    if not isinstance(fixed, int):
        return measure.batch_size, []
    if "batch_size" in measure.model_fields_set and measure.batch_size != fixed:
        return fixed, [
            f"measure.batch_size: {measure.batch_size}, but the model's batch is fixed at {fixed}; use that"
        ]
    return fixed, []


def _axes(tensor: "Tensor") -> tuple[int | str | None, ...]:
    return tensor.shape or ()


def _ranked(tensor: "Tensor", measure: Measure, samples: Mapping[str, np.ndarray]) -> "Tensor":
    """An input without any declared shape gets as many free axes as its entry or its sample has, one for
    want."""
    if tensor.shape is not None:
        return tensor
    if tensor.name in measure.shapes:
        rank = len(measure.shapes[tensor.name])
    else:
        rank = samples[tensor.name].ndim if tensor.name in samples else 1
    return replace(tensor, shape=(None,) * rank)


def _lengths(
    inputs: Sequence["Tensor"],
    measure: Measure,
    samples: Mapping[str, np.ndarray],
    batch: int,
    lines: list[str],
) -> dict[str, int]:
    """Symbol -> length, from `measure.shapes`, then the batch, then the data; says in `lines` what does not
    fit."""
    known: dict[str, int] = {}
    tensors = {tensor.name: tensor for tensor in inputs}
    for name, shape in measure.shapes.items():
        if name not in tensors:
            lines.append(f"measure.shapes: the model has no input '{name}'; it has {', '.join(tensors)}")
        elif not _agrees(shape, _axes(tensors[name])):
            lines.append(f"measure.shapes.{name}: {shape} does not fit the declared {_text(tensors[name])}")
        else:
            _learn(known, tensors[name], shape)
    for tensor in inputs:
        _learn(known, tensor, [batch], axes=1)
    for tensor in inputs:
        sample = samples.get(tensor.name)
        if sample is not None and sample.ndim == len(_axes(tensor)):
            _learn(known, tensor, sample.shape)
    return known


def _learn(known: dict[str, int], tensor: "Tensor", lengths: Sequence[int], axes: int | None = None) -> None:
    """Lengths of the symbols among the first `axes` axes; what is known already stays."""
    for axis, length in zip(_axes(tensor)[:axes], lengths, strict=False):
        if isinstance(axis, str):
            known.setdefault(axis, int(length))


def _shape(
    tensor: "Tensor",
    given: list[int] | None,
    sample: np.ndarray | None,
    batch: int,
    known: Mapping[str, int],
    lines: list[str],
) -> tuple[int, ...]:
    """Lengths of all axes; says in `lines` which are missing, and goes on with 1 so that all are told at
    once."""
    if given is not None:
        return tuple(given)
    declared = _axes(tensor)
    shape = [known.get(axis) if isinstance(axis, str) else axis for axis in declared]
    if declared and declared[0] is None:
        shape[0] = batch
    if sample is not None and sample.ndim == len(shape):
        shape = [length or taken for length, taken in zip(shape, sample.shape, strict=True)]
    if None in shape:
        example = [64 if length is None else length for length in shape]
        lines.append(
            f"measure.shapes: input '{tensor.name}' {_text(tensor)} has an axis of no fixed length; "
            f"write for example `measure: {{shapes: {{{tensor.name}: {example}}}}}`"
        )
    return tuple(1 if length is None else length for length in shape)


def _agrees(given: list[int], declared: tuple[int | str | None, ...]) -> bool:
    return len(given) == len(declared) and all(
        length > 0 and (not isinstance(axis, int) or axis == length)
        for length, axis in zip(given, declared, strict=True)
    )


def _seeded(shape: tuple[int, ...], tensor: "Tensor", generator: np.random.Generator) -> np.ndarray:
    if np.issubdtype(tensor.dtype, np.floating):
        return generator.standard_normal(shape).astype(tensor.dtype)
    return np.ones(shape, tensor.dtype)


def _text(tensor: "Tensor") -> str:
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in _axes(tensor)) + "]"
