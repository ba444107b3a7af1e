"""`mlcompress init`."""

from pathlib import Path
from typing import Annotated

import typer

from mlcompress import console
from mlcompress.errors import UsageError

_FILES = ("Makefile", "data.yaml", "distill.yaml", "prune.yaml", "quantize.yaml", "report.yaml")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to fill; made if it is missing.")],
) -> int:
    """Write a commented recipe per stage and a Makefile that chains them.

    Example: mlcompress init compress && cd compress && make
    """
    from importlib.resources import files

    from mlcompress.files import write_atomic

    there = [str(folder / name) for name in _FILES if (folder / name).exists()]
    if there:
        raise UsageError(*(f"{name}: is there already; choose another folder or remove it" for name in there))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            write_atomic(folder / name, (files("mlcompress.cli") / "templates" / name).read_bytes())
    except OSError as problem:
        raise UsageError(f"{folder}: cannot write here ({problem.strerror}); choose another folder") from None
    console.say(
        f"{folder}: {', '.join(_FILES)}; put teacher.onnx and the .npz files that data.yaml names there, "
        "then run make"
    )
    return 0
