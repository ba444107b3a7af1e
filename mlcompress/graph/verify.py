"""Is a written file what was promised, for a stock onnxruntime?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from mlcompress import console
from mlcompress.errors import ModelError
from mlcompress.graph import external, formats, structure
from mlcompress.graph.session import ORT_ERRORS, reason, session
from mlcompress.graph.shapes import example_feed, example_shapes
from mlcompress.graph.signature import Signature, signature

_OTHER_AXES = (16, 64, 224, 512, 1024)
"""Lengths tried for dynamic axes that are not the batch: a net may need a least size."""
_BATCHES = (1, 3)


def verify(path: Path | str, expected: Signature, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
    """Read `path` as a stranger would: compare the signature, load it in a stock CPU session, run it.

    It is run with seeded inputs at batch 1 and, where the batch is dynamic, at 3. `shapes` gives whole input
    shapes by name, for models whose other dynamic axes are not free. What onnx.checker finds in a file that
    runs, and outputs that are not finite, are warnings: the model may have come so.

    Raises ModelError with one line for each thing that is wrong.
    """
    path = Path(path)
    proto = formats.read(path)
    if problems := [*structure.problems(proto), *external.problems(proto, path.parent)]:
        raise ModelError(*(f"{path}: {problem}" for problem in problems))
    found = signature(ir.serde.deserialize_model(proto))
    lines = [f"{path}: {line}" for line in _differences(found, expected)]
    try:
        stock = session(path)
    except ORT_ERRORS as error:
        raise ModelError(*lines, f"{path}: onnxruntime cannot load it: {reason(error)}") from None
    if problem := _run(stock, found, shapes):
        lines.append(f"{path}: {problem}")
    if lines:
        raise ModelError(*lines)
    _warn_of_checker(path)


def _differences(found: Signature, expected: Signature) -> list[str]:
    lines = []
    for kind, now, before in (
        ("inputs", found.inputs, expected.inputs),
        ("outputs", found.outputs, expected.outputs),
    ):
        names, wanted = [t.name for t in now], [t.name for t in before]
        if names != wanted:
            lines.append(f"{kind} are {', '.join(names)} instead of {', '.join(wanted)}")
            continue
        lines += [
            f"{kind[:-1]} {a.name} is {a.dtype} {list(a.shape)} instead of {b.dtype} {list(b.shape)}"
            for a, b in zip(now, before, strict=True)
            if a != b
        ]
    return lines


def _run(
    stock: ort.InferenceSession, found: Signature, shapes: Mapping[str, Sequence[int]] | None
) -> str | None:
    """Why it cannot be run, or None."""
    for batch in _BATCHES:
        problem = ""
        for other in _OTHER_AXES:
            filled = example_shapes(found, batch, shapes, other)
            try:
                results = stock.run(None, example_feed(found, filled))
            except ORT_ERRORS as error:
                problem = (
                    problem or f"onnxruntime cannot run it with inputs of shape {filled}: {reason(error)}"
                )
                continue
            problem = ""
            _warn_of_infinities(found, results)
            break
        if problem:
            return f"{problem}; if an axis must have another length, give it in measure.shapes"
    return None


def _warn_of_infinities(found: Signature, results: Sequence[NDArray[Any]]) -> None:
    for tensor, result in zip(found.outputs, results, strict=True):
        if tensor.dtype.kind == "f" and not np.isfinite(result).all():
            console.warn(f"output {tensor.name}: not finite for random inputs")


def _warn_of_checker(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        console.warn(f"{path}: runs, but onnx.checker objects: {reason(error)}")
