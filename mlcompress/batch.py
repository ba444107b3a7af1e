"""Many checkpoints, one recipe. Each model is a process of its own: one that fails, or dies, stops no
other."""

import json as json_format
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcompress import card, console
from mlcompress.errors import UsageError
from mlcompress.exits import Exit
from mlcompress.files import is_same
from mlcompress.job import Job


@dataclass(frozen=True)
class Result:
    """How one model of the batch ended."""

    model: Path
    output: Path
    exit: int
    messages: tuple[str, ...]


def run(wish: Job, models: Sequence[Path], folder: Path, *, jobs: int, dry_run: bool, json: bool) -> int:
    """Run `wish` on each model, at most `jobs` at a time, and say how each ended.

    Returns:
        The exit status of the batch: 2 if any model could not be run, else 1 if any gate was missed, else 0.

    Raises:
        UsageError: two models would write the same file, or the folder cannot be made.
    """
    outputs = _outputs(models, folder)
    if not dry_run:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise UsageError(
                f"{folder}: cannot make this folder ({problem.strerror}); choose another"
            ) from None
    arguments = _arguments(wish, dry_run)

    running: set[subprocess.Popen[str]] = set()

    def one(pair: tuple[Path, Path]) -> Result:
        result = _run_one(wish.stage, pair[0], pair[1], arguments, running)
        _report(result)
        return result

    results = []
    with console.progress(wish.stage, len(models)) as advance, ThreadPoolExecutor(jobs) as pool:
        try:
            for result in pool.map(one, zip(models, outputs, strict=True)):
                results.append(result)
                advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    _summarise(results)
    if json:
        console.data(json_format.dumps([_as_json(result) for result in results], indent=2))
    return _exit_status(results)


def _outputs(models: Sequence[Path], folder: Path) -> list[Path]:
    outputs = [folder / f"{_stem(model)}.onnx" for model in models]
    twice = [str(path) for path, count in Counter(outputs).items() if count > 1]
    if twice:
        raise UsageError(
            *(f"{path}: two models of the batch would write it; run them apart" for path in twice)
        )
    same = [output for model, output in zip(models, outputs, strict=True) if is_same(output, model)]
    if same:
        raise UsageError(
            *(f"{path}: would be overwritten by its own result; choose another --output-dir" for path in same)
        )
    return outputs


def _stem(model: Path) -> str:
    """`net` of net.pt; a folder keeps its whole name, and `.` and `..` get the one they stand for."""
    return model.resolve().name if model.is_dir() else model.stem


def _arguments(wish: Job, dry_run: bool) -> list[str]:
    arguments: list[str] = []
    if wish.recipe is not None:
        arguments += ["--recipe", wish.recipe]
    for override in wish.overrides:
        arguments += ["--set", override]
    for teacher in wish.teachers:
        arguments += ["--teacher", str(teacher)]
    if wish.student is not None:
        arguments += ["--student", str(wish.student)]
    flags = {"--no-code": wish.no_code, "--dry-run": dry_run, "--debug": wish.debug}
    return arguments + [flag for flag, on in flags.items() if on]


def _run_one(
    stage: str, model: Path, output: Path, arguments: list[str], running: set["subprocess.Popen[str]"]
) -> Result:
    command = [sys.executable, "-m", "mlcompress", stage, str(model), "--output", str(output), *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, console.PART_OF_BATCH: "1"},
        text=True,
        errors="replace",
    )
    running.add(process)
    _, told = process.communicate()
    running.discard(process)
    lines = tuple(line for line in told.splitlines() if line.strip())
    if process.returncode < 0:
        ended = f"the process was ended by signal {-process.returncode}; is there enough memory?"
        lines = (*lines, f"{model}: {ended}")
    return Result(model, output, process.returncode, lines)


def _report(result: Result) -> None:
    for line in result.messages:
        is_news = result.exit == Exit.DONE and not line.startswith("warning: ")
        tell = console.say if is_news else console.error
        tell(line if str(result.model) in line else f"{result.model}: {line}")


def _summarise(results: Sequence[Result]) -> None:
    done = sum(result.exit == Exit.DONE for result in results)
    missed = sum(result.exit == Exit.GATE_MISSED for result in results)
    failed = [result for result in results if result.exit not in (Exit.DONE, Exit.GATE_MISSED)]
    text = f"{len(results)} models: {done} done, {missed} missed a gate, {len(failed)} could not run"
    console.say(text + (f" ({', '.join(str(result.model) for result in failed)})" if failed else ""))


def _exit_status(results: Sequence[Result]) -> int:
    codes = {result.exit for result in results}
    if codes <= {Exit.DONE}:
        return Exit.DONE
    return Exit.GATE_MISSED if codes <= {Exit.DONE, Exit.GATE_MISSED} else Exit.CANNOT_RUN


def _as_json(result: Result) -> dict[str, Any]:
    found = card.read(result.output)[0] if result.exit == Exit.DONE and result.output.exists() else None
    return {
        "model": str(result.model),
        "output": str(result.output),
        "exit": int(result.exit),
        "messages": list(result.messages),
        "card": found,
    }
