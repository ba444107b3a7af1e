"""A report as a file; the suffix of its name says how."""

import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlcompress import card
from mlcompress.errors import UsageError
from mlcompress.files import write_atomic
from mlcompress.report.rows import Report

_RENDERERS = {".html": "html", ".md": "markdown", ".json": "json_", ".xml": "junit"}
"""Suffix to the module of this package whose `render(report)` gives the text."""


def targets(outputs: Sequence[Path], formats: Sequence[str], models: Sequence[Path]) -> list[Path]:
    """The files of one report: `outputs`, then the recipe's `formats` beside the first, under its name.

    Raises:
        UsageError: one line for each name that cannot, or should not, be written; nothing was measured yet.
    """
    beside = [outputs[0].with_suffix(f".{name}") for name in formats] if outputs else []
    found = list(dict.fromkeys([*outputs, *beside]))
    lines = [line for path in found for line in _problems(path, models)]
    if lines:
        raise UsageError(*lines)
    return found


def _problems(path: Path, models: Sequence[Path]) -> Iterator[str]:
    if path.suffix not in _RENDERERS:
        yield f"{path}: no report format has this suffix; use {', '.join(_RENDERERS)}"
    elif any(path.resolve() == card.path_for(model).resolve() for model in models):
        yield f"{path}: is the card of a reported model and would be overwritten; choose another name"
    elif path.is_dir():
        yield f"{path}: is a folder; name a file"
    elif not path.parent.is_dir():
        yield f"{path}: the folder {path.parent} does not exist; create it first"
    elif not os.access(path.parent, os.W_OK):
        yield f"{path}: cannot write to {path.parent}; choose another folder"


def write(report: Report, path: Path) -> None:
    """Write `report` to `path`, one of `targets`, in the format of its suffix; never half of it.

    The bytes depend on the figures alone: no date, host name or working directory is added.

    Raises:
        UsageError: the file cannot be written (the disk is full, say).
    """
    renderer = importlib.import_module(f"mlcompress.report.{_RENDERERS[path.suffix]}")
    content = renderer.render(report).encode()
    try:
        write_atomic(path, content)
    except OSError as problem:
        raise UsageError(f"{path}: cannot be written ({problem.strerror}); choose another place") from None
