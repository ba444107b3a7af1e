"""Does a TorchScript file compute what the model does, where there is torch and nothing else?"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
import torch

from mlcompress import graph
from mlcompress.errors import ModelError
from mlcompress.graph.session import session
from mlcompress.train.executor import Executor

FLOAT = 1e-5
"""Of the largest value of an output, plus as much of each value: sums in another order differ by less."""
CODES = 2e-2
"""Of the largest value, where activations are rounded to 8-bit codes or to half precision: values near the
middle of two codes go either way, and what follows multiplies that."""

PROGRAM = """
import sys, torch
_, file, given, found = sys.argv
model = torch.jit.load(file)
results = []
for number, feed in enumerate(torch.load(given, weights_only=True)):
    try:
        with torch.no_grad():
            result = model(**feed) if number else model(*feed.values())
        results.append((result,) if torch.is_tensor(result) else result)
    except RuntimeError as error:
        results.append(str(error).strip().splitlines()[-1])
torch.save(results, found)
if any(name.startswith(("mlcompress", "onnx")) for name in sys.modules):
    sys.exit("more than torch was imported")
"""
"""The first feed by position, the others by name."""


@dataclass(frozen=True)
class Wrong:
    """A feed for which the file does not give what it should, and what is wrong."""

    feed: Mapping[str, np.ndarray]
    text: str


def check(
    path: Path,
    twin: Path,
    executor: Executor,
    feeds: Sequence[Mapping[str, np.ndarray]],
    names: Mapping[str, str],
) -> Wrong | None:
    """Run the file at `path` in a fresh process, and compare with onnxruntime on `twin` and with `executor`.

    `names` are forward's arguments by input name. The first feed is given by position, the others by name.
    """
    limit = tolerance(executor.model)
    stock = session(twin)
    traced_at = _shapes(feeds[0])
    for feed, found in zip(feeds, _run(path, feeds, names), strict=True):
        where = f"traced at {traced_at} and run at {_shapes(feed)}"
        if isinstance(found, str):
            return Wrong(feed, f"{where} with torch alone: {found}")
        with torch.no_grad():
            ours = executor({name: torch.from_numpy(array) for name, array in feed.items()})
        theirs = stock.run(list(ours), dict(feed))
        for name, one, stocks in zip(ours, found, theirs, strict=True):
            for reference, whose in (
                (ours[name].numpy(), "the executor"),
                (np.asarray(stocks), "onnxruntime"),
            ):
                if problem := difference(one.numpy(), reference, limit):
                    return Wrong(feed, f"{where}: output {name} is not what {whose} computes: {problem}")
    return None


def tolerance(model: ir.Model) -> float:
    """`CODES` where activations are quantised or have half precision, else `FLOAT`."""
    typed = graph.copy(model)
    graph.infer_shapes(typed)
    half = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    constants = {value for one in typed.graphs() for value in one.initializers.values()}
    for node in typed.graph.all_nodes():
        computed = [value for value in node.inputs if value is not None and value not in constants]
        if computed and (
            "Quantize" in node.op_type.replace("Dequantize", "") or any(v.dtype in half for v in node.outputs)
        ):
            return CODES
        if not computed:  # decodes a weight
            constants.update(node.outputs)
    return FLOAT


def difference(found: np.ndarray, expected: np.ndarray, limit: float) -> str | None:
    """How `found` differs from `expected`, None where it does not.

    Floats: |a - b| <= limit * max |b|, and for `FLOAT` limit * |b| more; the same elements are not finite.
    Other types: equal, or for `CODES` at most that share of the elements differs.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype} {list(found.shape)} instead of {expected.dtype} {list(expected.shape)}"
    if expected.dtype.kind != "f":
        share = float((found != expected).mean()) if found.size else 0.0
        return f"{share:.2%} of the elements differ" if share > (limit if limit == CODES else 0.0) else None
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return "other elements are not finite"
    if not finite.any():
        return None
    a, b = found[finite].astype(np.float64), expected[finite].astype(np.float64)
    scale = float(np.abs(b).max())
    room = limit * scale + (limit * np.abs(b) if limit == FLOAT else 0.0)
    worst = float(np.abs(a - b).max())
    if (np.abs(a - b) <= room).all():
        return None
    share = worst / scale if scale else float("inf")
    return f"off by {worst:.3g}, {share:.2g} of its scale, where {limit:g} is allowed"


def _run(
    path: Path, feeds: Sequence[Mapping[str, np.ndarray]], names: Mapping[str, str]
) -> list[tuple[torch.Tensor, ...] | str]:
    """The outputs for each feed, or why there are none, from a process that imports torch alone."""
    with TemporaryDirectory(dir=path.parent, prefix=".torchscript-") as folder:
        given, found = Path(folder) / "given.pt", Path(folder) / "found.pt"
        torch.save([{names[name]: torch.from_numpy(feed[name]) for name in names} for feed in feeds], given)
        # -P: whatever lies in the working directory is not imported
        command = [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, str(path), str(given), str(found)]
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=os.environ | threads
        )
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if line.strip()]
            why = told[-1] if told else f"status {done.returncode}"
            raise ModelError(f"{path.name}: torch alone cannot load what was written: {why}; use .onnx")
        results: list[tuple[torch.Tensor, ...] | str] = torch.load(found, weights_only=True)
        return results


def _shapes(feed: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
