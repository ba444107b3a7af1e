"""Peak memory and session creation time in a fresh process that loads and runs one model.

The child is `python -m mlcompress.measure.memory REQUEST ANSWER`. It reads its own peak before it touches the
model and after; the peak of a process cannot fall, so the difference is what the model added.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from mlcompress.errors import ModelError, UserError
from mlcompress.measure import session as sessions
from mlcompress.measure.lock import measuring
from mlcompress.measure.providers import resolve
from mlcompress.measure.session import Feeds, Model

TIMEOUT = 600.0
"""Seconds for load and run together."""

_KEPT = (
    "PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "SYSTEMROOT",
    "TMPDIR",
    "TEMP",
)
"""Variables that a runtime needs to start; others, such as OMP_NUM_THREADS or MALLOC_*, would change the
figure."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a model adds to the peak resident size of a process, and the time to create its session."""

    peak_bytes: int
    """After loading and three inferences."""
    load_bytes: int
    """After loading: encoded weights are expanded here."""
    load_ms: float


def peak(
    model: Model, feeds: Feeds, *, provider: str = "cpu", threads: int = 1, timeout: float = TIMEOUT
) -> Memory:
    """Load and run `model` in a process of its own.

    Args:
        feeds: one array per input, by input name.
        provider: a name that `providers.resolve` knows.

    Raises:
        ModelError: the process died (for lack of memory, say), took longer than `timeout` seconds, or refused
            the model.
    """
    with tempfile.TemporaryDirectory(prefix="mlcompress-memory-") as name:
        folder = Path(name)
        request, answer = folder / "request.json", folder / "answer.json"
        path = model if isinstance(model, Path) else folder / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        for index, array in enumerate(feeds.values()):
            np.save(folder / f"{index}.npy", array, allow_pickle=False)
        request.write_text(
            json.dumps(
                {
                    "model": str(path.resolve()),
                    "inputs": list(feeds),
                    "provider": provider,
                    "threads": threads,
                }
            )
        )
        with measuring():
            _run_child([str(request), str(answer)], timeout, sessions.label(model))
        told = json.loads(answer.read_text(encoding="utf-8"))
    if "lines" in told:
        raise ModelError(*told["lines"])
    return Memory(**told)


def _run_child(arguments: list[str], timeout: float, name: str) -> None:
    package_root = str(Path(__file__).parents[2])
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ} | {"PYTHONPATH": package_root}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "mlcompress.measure.memory", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{name}: did not load and run within {timeout:g} s; its memory was not measured"
        ) from None
    if ended.returncode < 0:
        raise ModelError(
            f"{name}: the process that loads and runs it was killed by signal {-ended.returncode}"
        ) from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{name}: the process that loads and runs it failed: {last}")


def _child(request: Path, answer: Path) -> None:
    """Runs in the fresh process: do what `request` says and write figures, or the lines of an error, to
    `answer`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    feeds = {
        name: np.load(request.parent / f"{index}.npy", allow_pickle=False)
        for index, name in enumerate(asked["inputs"])
    }
    try:
        told: dict[str, object] = asdict(
            _measure(Path(asked["model"]), feeds, asked["provider"], asked["threads"])
        )
    except UserError as problem:
        told = {"lines": problem.lines}
    answer.write_text(json.dumps(told), encoding="utf-8")


def _measure(model: Path, feeds: Feeds, provider_name: str, threads: int) -> Memory:
    provider = resolve(provider_name)
    before = _peak_bytes()
    start = time.perf_counter()
    session = sessions.create(model, provider, threads=threads)
    load_ms = (time.perf_counter() - start) * 1000
    loaded = _peak_bytes()
    arrays = sessions.feeds_for(session, feeds, str(model))
    for _ in range(3):
        sessions.run(session, arrays, str(model))
    return Memory(_peak_bytes() - before, loaded - before, load_ms)


def _peak_bytes() -> int:
    """Largest resident size of this process so far.

    Not `getrusage`'s ru_maxrss on Linux: it survives exec, so a child of a large process starts at its
    parent's peak.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
