"""Does a graph compute what the torch module does?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from mlcompress import graph
from mlcompress.checkpoint.forward import Input, Lengths, call, examples, workable
from mlcompress.errors import ModelError
from mlcompress.graph.save import fits_message
from mlcompress.graph.session import ORT_ERRORS, reason, session

_TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2}
"""Of |a - b| against max(1, largest |b|), plus ten times as much of |b|. Kernels sum in other orders: 1e-6
of the largest value in deep float32 nets; a wrong graph is off by far more. float16 has 3 digits."""
_FLIPPED = 1e-3
"""Share of integers (arg-max) that may differ, where two values are equal but for rounding."""
_ADVICE = "forward may depend on nothing but its inputs, and on lengths only as taken from their shapes"


def compare(model: ir.Model, module: torch.nn.Module, inputs: Sequence[Input], where: str) -> None:
    """Run graph and module on the same seeded tensors: batch 2, 3 and 1, or twice where no axis is free.

    Stock onnxruntime, CPU. |a - b| <= t * max(1, largest |b|) + 10 t * |b| with t = 1e-4 for float32, 1e-2
    for float16 and 1e-6 for float64; of integers at most 1 in 1000 may differ.

    Raises ModelError when they differ or one of them does not run.
    """
    with _stock(model) as stock:
        for seed, lengths in enumerate(_trials(module, inputs, where)):
            told = ", ".join(f"{word} {size}" for word, size in lengths.items())
            at = f"at {told}" if told else "at the shapes of the recipe"
            given = examples(inputs, lengths, seed)
            with torch.no_grad():
                expected = [tensor.detach().cpu() for tensor in call(module, inputs, given)]
            feed = {one.name: tensor.numpy() for one, tensor in zip(inputs, given, strict=True)}
            try:
                found = stock.run(None, feed)
            except ORT_ERRORS as error:
                raise ModelError(
                    f"{where}: the graph does not run {at}, the module does: {reason(error)}; {_ADVICE}"
                ) from None
            names = [str(value.name) for value in model.graph.outputs]
            if problem := _difference(names, found, expected):
                raise ModelError(f"{where}: the graph is not the module {at}: {problem}; {_ADVICE}")


def _trials(module: torch.nn.Module, inputs: Sequence[Input], where: str) -> Iterator[Lengths]:
    """Lengths to compare at. 2 is what was exported, 3 finds a frozen batch, 1 is what is measured later."""
    first = workable(module, inputs, where, 2)
    yield first
    if not first:
        yield first  # other numbers, from another seed, find what was frozen of the values
        return
    yield workable(module, inputs, where, 3, unlike=first)
    yield workable(module, inputs, where, 1)


def _difference(
    names: Sequence[str], found: Sequence[NDArray[Any]], expected: Sequence[torch.Tensor]
) -> str | None:
    """The first output that is not what the module gives, or None."""
    for name, ours, theirs in zip(names, found, expected, strict=True):
        wanted = theirs.numpy()
        if ours.shape != wanted.shape or ours.dtype != wanted.dtype:
            return f"{name} is {ours.dtype} {list(ours.shape)}, not {wanted.dtype} {list(wanted.shape)}"
        if wanted.size == 0:
            continue
        if wanted.dtype.kind != "f":
            if (share := float((ours != wanted).mean())) > _FLIPPED:
                return f"{share:.1%} of {name} differ"
            continue
        if not np.isfinite(wanted).any():
            return f"{name} of the module is not finite for random inputs, so that nothing can be compared"
        with np.errstate(invalid="ignore"):  # infinities that agree
            size = np.nanmax(np.abs(np.where(np.isfinite(wanted), wanted, 0)))
            least = _TOLERANCE[wanted.dtype.name]
            near = np.isclose(
                ours, wanted, rtol=10 * least, atol=least * max(1.0, float(size)), equal_nan=True
            )
        if not near.all():
            worst = np.nanmax(np.abs(ours.astype(np.float64) - wanted.astype(np.float64)))
            return f"{name} differs by {worst:.3g}, where the largest value is {float(size):.3g}"
    return None


@contextmanager
def _stock(model: ir.Model) -> Iterator[ort.InferenceSession]:
    """A session of the graph, by way of a file where it is too large for a message."""
    if fits_message(model):
        yield session(graph.to_bytes(model))
        return
    with TemporaryDirectory(prefix="mlcompress-compare-") as folder:
        path = Path(folder) / "model.onnx"
        graph.save(model, path)
        yield session(path)
