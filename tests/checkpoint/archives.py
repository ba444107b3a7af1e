"""Archives of torch with entries changed, for tests of what refuses them, and runs of the command line on them."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlcompress.cli.app import _status
from mlcompress.exits import Exit

Change = Callable[[bytes], bytes | None]


def edited(source: Path, target: Path, method: int = zipfile.ZIP_STORED, **changes: Change) -> Path:
    """`source` with every entry whose name ends like a key (`_` for `.`) changed, or left out where it becomes None."""
    met: set[str] = set()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            data: bytes | None = old.read(name)
            for end, change in changes.items():
                if data is not None and name.replace(".", "_").endswith(end):
                    data = change(data)
                    met.add(end)
            if data is not None:
                new.writestr(name, data)
    assert met == set(changes)
    return target


def added(source: Path, target: Path, name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    """`source` with one more entry in its folder, or beside it where the name begins with `/`."""
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(source) as file:
        root = file.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(target, "a", method) as file:
        file.writestr(name[1:] if name.startswith("/") else f"{root}/{name}", data)
    return target


def swap(old: str, new: str) -> Change:
    """Replace text that must be there."""

    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return change


def refused(path: Path, recipe: str, said: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `mlcompress prune` refuses `path`; nothing is run and nothing written."""
    Path("r.yaml").write_text(f"prune: {{ratio: 0.5}}\n{recipe}\n")
    before = sorted(os.listdir())
    status = _status(["prune", str(path), "-r", "r.yaml", "-o", "out.onnx"])
    printed = capsys.readouterr()
    assert status == Exit.CANNOT_RUN, printed.err
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    assert line.startswith((f"{path}: ", f"{path}/"))
    assert said in line, line
    assert len(line) < 450
    assert sorted(os.listdir()) == before
    return line
