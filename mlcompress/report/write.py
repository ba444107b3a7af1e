"""A report as a file; the suffix of its name says how."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from mlcompress.errors import UsageError
from mlcompress.files import check_writable, write_atomic
from mlcompress.report.rows import Report

_RENDERERS = {".html": "html", ".md": "markdown", ".json": "json_", ".xml": "junit"}
"""Suffix to the module of this package whose `render(report)` gives the text."""


def targets(outputs: Sequence[Path], formats: Sequence[str] = ()) -> list[Path]:
    """The files of one report: `outputs`, then the recipe's `formats` beside the first, under its name.

    Raises:
        UsageError: one line for each suffix that no format has; a folder that cannot be written to.
    """
    wrong = [path for path in outputs if path.suffix not in _RENDERERS]
    if wrong:
        known = ", ".join(_RENDERERS)
        raise UsageError(*[f"{path}: no report format has this suffix; use {known}" for path in wrong])
    beside = [outputs[0].with_suffix(f".{name}") for name in formats] if outputs else []
    found = list(dict.fromkeys([*outputs, *beside]))
    for path in found:
        check_writable(path)
    return found


def write(report: Report, path: Path) -> None:
    """Write `report` to `path` in the format of its suffix; a reader never sees half of it.

    The bytes depend on the figures alone: no date, host name or working directory is added.

    Raises:
        UsageError: as `targets`.
    """
    (target,) = targets([path])
    renderer = importlib.import_module(f"mlcompress.report.{_RENDERERS[target.suffix]}")
    write_atomic(target, renderer.render(report).encode())
