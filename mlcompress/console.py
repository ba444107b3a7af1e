"""The only module that prints. stdout carries data; stderr carries messages and progress.

rich is imported when it is needed: `--help` must not pay for it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from mlcompress import processes
from mlcompress.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

PART_OF_BATCH = "MLCOMPRESS_PART_OF_BATCH"
"""Set in the environment of a command whose messages are read when it has ended."""
_quiet = False
_BETWEEN_LINES = 30.0
"""Seconds from one line of progress to the next where there is no terminal."""


def set_quiet(quiet: bool) -> None:
    """With `--quiet` only warnings, errors and data are printed."""
    global _quiet
    _quiet = quiet


def data(text: str) -> None:
    """What the command was asked for, on stdout."""
    if processes.is_first():
        _print(text, sys.stdout)


def say(text: str) -> None:
    """A message for a person, on stderr."""
    if not _quiet and processes.is_first():
        _print(text, sys.stderr)


def warn(text: str) -> None:
    """Something the user should know although the work goes on."""
    if processes.is_first():
        _print(f"warning: {text}", sys.stderr)


def error(text: str) -> None:
    """Why the command did not do what was asked: one line."""
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    """Print at once. A reader that went away (`| head`) is no reason to stop working.

    Raises:
        UsageError: the stream cannot take it, since a disk is full, say.
    """
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise UsageError(
            f"{stream.name}: cannot be written ({problem.strerror}); redirect it elsewhere"
        ) from None


def _is_terminal() -> bool:
    return processes.is_first() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere (a log of CI) a line every half a minute; call the yielded function with
    the steps done since.
    """
    if _quiet or not _is_terminal():
        yield (lambda steps: None) if PART_OF_BATCH in os.environ else _lines(label, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.update(task, advance=steps)


def _lines(label: str, total: int | None) -> Callable[[int], None]:
    done, said = 0, time.monotonic()

    def advance(steps: int) -> None:
        nonlocal done, said
        done += steps
        if time.monotonic() - said >= _BETWEEN_LINES:
            said = time.monotonic()
            say(f"{label}: {done}" + ("" if total is None else f" of {total}"))

    return advance


def table_console(width: int | None = None) -> "Console":
    """A rich console on stdout, for tables; without colour where there is no terminal or NO_COLOR is set."""
    from rich.console import Console

    if width is None and not sys.stdout.isatty():
        width = 120
    return Console(file=sys.stdout, width=width, highlight=False)
