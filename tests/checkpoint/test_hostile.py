"""Broken, lying and malicious weights files through the command line: one line each, nothing runs, nothing is written."""

import argparse
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from mlcompress.cli.app import _status
from mlcompress.exits import Exit
from tests.checkpoint.nets import Cnn, seasoned

RECIPE = """\
prune: {ratio: 0.5}
model: {factory: "tests.checkpoint.nets:build", inputs: {image: {shape: [batch, 1, 8, 8]}}}
"""
Make = Callable[[Path], bytes | None]
"""The bytes of the file, or None where the file was made."""


class Marks:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def state() -> dict[str, torch.Tensor]:
    return dict(seasoned(Cnn()).state_dict())


def saved(content: object, **options: object) -> bytes:
    packed = io.BytesIO()
    torch.save(content, packed, **options)  # type: ignore[arg-type]
    return packed.getvalue()


def repacked(
    change: Callable[[str, bytes], tuple[str, bytes] | None], method: int = zipfile.ZIP_STORED
) -> bytes:
    """A torch archive with every entry changed, or left out."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(state()))) as old, zipfile.ZipFile(packed, "w", method) as new:
        for name in old.namelist():
            if (entry := change(name, old.read(name))) is not None:
                new.writestr(*entry)
    return packed.getvalue()


def pickled(data: bytes) -> bytes:
    """A torch archive whose pickle is `data`."""
    return repacked(lambda name, old: (name, data if name.endswith("data.pkl") else old))


def lied(**entries: object) -> bytes:
    """Safetensors with another header over the same numbers."""
    return with_header(
        json.dumps({"fc.weight": {"dtype": "F32", "shape": [4, 16], "data_offsets": [0, 256], **entries}})
    )


def with_header(header: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header.encode() + bytes(256)


def tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return packed.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def with_entry(name: str) -> bytes:
    packed = io.BytesIO(saved(state()))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"x")
    return packed.getvalue()


def bomb() -> bytes:
    """Unpacks to 128 MB of zeros."""
    return repacked(
        lambda name, old: (name, bytes(2**27) if name.endswith("data.pkl") else old), zipfile.ZIP_DEFLATED
    )


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


def huge(path: Path) -> None:
    """A tensor of 4 TB that is stored as one number."""
    torch.save({**state(), "fc.weight": torch.zeros(1).expand(10**6, 10**6)}, path)


def circular() -> bytes:
    """A list that holds itself, and lists of lists with 2**60 ways through them."""
    inner: list[object] = []
    inner.append(inner)
    for _ in range(60):
        inner = [inner, inner]
    return saved({**state(), "fc.bias": torch.ones(5), "rest": inner})


def nothing(path: Path) -> None:
    del path


CASES: dict[str, tuple[Make, str]] = {
    "missing": (nothing, "no such file"),
    "empty": (lambda path: b"", "is empty"),
    "folder": (folder, "is a folder without config.json"),
    "link to itself": (loop, "cannot be read"),
    "text": (lambda path: b"these are my weights\n" * 9, "is text"),
    "truncated zip": (lambda path: saved(state())[:-300], "truncated or damaged zip archive"),
    "half a zip": (lambda path: saved(state())[:4000], "truncated or damaged zip archive"),
    "zip without directory": (lambda path: saved(state())[:200], "truncated or damaged zip archive"),
    "damaged pickle": (lambda path: pickled(b"\x80\x02}q\x00(X"), "is a truncated or damaged torch checkpoint"),
    "empty pickle": (lambda path: pickled(b""), "is a truncated or damaged torch checkpoint"),
    "endless pickle": (lambda path: pickled(b"\x80\x02" + b"(" * 10**5), "is a truncated or damaged torch checkpoint"),
    "numbers missing": (
        lambda path: repacked(lambda name, old: None if name.endswith("/data/3") else (name, old)),
        "is a truncated or damaged torch checkpoint",
    ),
    "numbers too short": (
        lambda path: repacked(lambda name, old: (name, old[:8] if name.endswith("/data/12") else old)),
        "is a truncated or damaged torch checkpoint",
    ),
    "zip bomb": (lambda path: bomb(), "would unpack to 134"),
    "packed numbers": (
        lambda path: repacked(lambda name, old: (name, old), zipfile.ZIP_DEFLATED),
        "its tensors are compressed",
    ),
    "name that escapes": (lambda path: with_entry("archive/../../evil.py"), "names the path 'archive/../../evil.py'"),
    "absolute name": (lambda path: with_entry("/tmp/evil.py"), "names the path '/tmp/evil.py'"),
    "one name twice": (lambda path: repeated(), "holds one path twice"),
    "runs code": (lambda path: pickled(pickle.dumps(Marks(Path("mark")), 2)), "holds io.open, which is not unpickled"),
    "runs code, legacy": (
        lambda path: saved({"x": Marks(Path("mark"))}, _use_new_zipfile_serialization=False),
        "holds io.open, which is not unpickled",
    ),
    "runs code, plain": (lambda path: pickle.dumps(Marks(Path("mark"))), "is a pickle, which is not opened"),
    "system": (lambda path: pickled(b"cos\nsystem\n(S'touch mark'\ntR."), "posix.system|os.system"),
    "module": (lambda path: saved(Cnn()), "holds tests.checkpoint.nets.Cnn, which is not unpickled"),
    "module, legacy": (
        lambda path: saved(Cnn(), _use_new_zipfile_serialization=False),
        "holds tests.checkpoint.nets.Cnn, which is not unpickled",
    ),
    "arguments": (
        lambda path: saved({"model": state(), "args": argparse.Namespace(lr=1)}),
        "holds argparse.Namespace, which is not unpickled because it can run code; save module.state_dict() alone",
    ),
    "numpy numbers": (lambda path: saved({"model": state(), "loss": np.float64(0.5)}), "holds numpy"),
    "numpy pickle": (lambda path: pickle.dumps({"fc.weight": np.ones(3)}), "is a pickle, which is not opened"),
    "circular": (lambda path: circular(), "fc.bias is float32 [5], the module's float32 [4]"),
    "tar": (lambda path: tar(), "is a tar archive"),
    "legacy, truncated": (
        lambda path: saved(state(), _use_new_zipfile_serialization=False)[:-200],
        "is a truncated or damaged torch checkpoint",
    ),
    "legacy, cut in the pickle": (
        lambda path: saved(state(), _use_new_zipfile_serialization=False)[:90],
        "is a truncated or damaged torch checkpoint",
    ),
    "tensor of terabytes": (huge, "fc.weight is float32 [1000000, 1000000], the module's float32 [4, 16]"),
    "missing keys": (lambda path: saved({"fc.bias": torch.ones(4)}), "11 of 14 tensors missing"),
    "NaN": (lambda path: saved({**state(), "fc.bias": torch.full((4,), torch.nan)}), "NaN or infinite"),
    "safetensors, truncated": (
        lambda path: safetensors_bytes(state())[:-4],
        "is a truncated or damaged safetensors file",
    ),
    "safetensors, wrong type": (lambda path: lied(dtype="F64"), "is a truncated or damaged safetensors file"),
    "safetensors, unknown type": (lambda path: lied(dtype="F31"), "is a truncated or damaged safetensors file"),
    "safetensors, too large": (lambda path: lied(shape=[2**40, 2**40]), "is a truncated or damaged safetensors file"),
    "safetensors, negative": (lambda path: lied(shape=[-4, 16]), "is a truncated or damaged safetensors file"),
    "safetensors, outside": (lambda path: lied(data_offsets=[0, 2**50]), "is a truncated or damaged safetensors file"),
    "safetensors, hole": (lambda path: lied(data_offsets=[64, 320]), "is a truncated or damaged safetensors file"),
    "safetensors, no JSON": (lambda path: with_header("{no"), "is a truncated or damaged safetensors file"),
    "safetensors, no end": (lambda path: with_header("{}", 2**62), "net.pt: "),
    "safetensors, other keys": (lambda path: with_header("{}")[:10], "holds no tensors by name"),
    "safetensors, deep": (lambda path: with_header("[" * 10**5), "net.pt: "),
}  # fmt: skip


def repeated() -> bytes:
    packed = io.BytesIO(saved(state()))
    with zipfile.ZipFile(packed, "a") as archive:
        name = archive.namelist()[0]
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, b"x")
    return packed.getvalue()


def test_there_are_more_than_25_of_them() -> None:
    assert len(CASES) > 25


@pytest.mark.parametrize("case", CASES)
def test_hostile_file(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = CASES[case]
    path = Path("net.pt")
    content = make(path)
    if content is not None:
        path.write_bytes(content)
    Path("r.yaml").write_text(RECIPE)
    before = sorted(os.listdir())

    status = _status(["prune", "net.pt", "-r", "r.yaml", "-o", "out.onnx"])

    printed = capsys.readouterr()
    assert status == Exit.CANNOT_RUN, printed.err
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("net.pt: ")
    assert any(word in line for word in said.split("|"))
    assert len(line) < 400
    assert sorted(os.listdir()) == before  # no mark of code that ran, no output, no card


def test_the_mark_would_have_been_made(tmp_path: Path) -> None:
    """Negative control: plain unpickling runs the code."""
    pickle.loads(pickle.dumps(Marks(tmp_path / "mark"))).close()  # noqa: S301
    assert (tmp_path / "mark").exists()
