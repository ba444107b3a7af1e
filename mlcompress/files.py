"""Atomic writing: a reader sees the old file or the new one, never half of one."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from mlcompress.errors import UsageError

_BLOCK = 1 << 20


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it over `path`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks; of a folder that of the names and digests of its `parts`."""
    digest = hashlib.sha256()
    if path.is_dir():
        for part in parts(path):
            digest.update(f"{part.name} {sha256(part)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def parts(path: Path) -> list[Path]:
    """The files of a checkpoint: the file itself; of a folder its configuration and weights, sorted."""
    if not path.is_dir():
        return [path]
    wanted = [path.glob(pattern) for pattern in ("config.json", "*.safetensors", "*.safetensors.index.json")]
    return sorted(part for found in wanted for part in found if part.is_file())


def sync(path: Path) -> None:
    """Flush a written file to disk, so that a rename cannot outlive its content."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that could not, or should not, be written at the end.

    Raises:
        UsageError: neither an .onnx nor a .ts name, one of `inputs`, or not writable because of what is in
            its place.
    """
    folder = path.parent
    if path.suffix not in (".onnx", ".ts"):
        stem = path.stem or "model"
        raise UsageError(f"{path}: ONNX or TorchScript is written; name it {stem}.onnx or {stem}.ts")
    if any(is_same(path, other) for other in inputs):
        raise UsageError(f"{path}: is read by this command and would be overwritten; choose another output")
    in_the_way = [place for place in _beside(path) if place.is_dir()]
    if in_the_way:
        raise UsageError(
            *(f"{place}: is a folder where a file would be written; move it" for place in in_the_way)
        )
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist; create it first")
    probe = folder / f".{path.name}.partial" / "probe"
    made = not probe.parent.exists()
    try:
        probe.parent.mkdir(exist_ok=True)
        probe.touch()
        probe.unlink()
        if made:
            probe.parent.rmdir()
    except OSError as problem:
        raise UsageError(
            f"{path}: cannot be written ({problem.strerror}: {probe.parent}); choose another"
        ) from None


def is_same(path: Path, other: Path) -> bool:
    """Whether two paths name one file, by whatever links and `..` they go."""
    return os.path.realpath(path) == os.path.realpath(other)


def _beside(path: Path) -> list[Path]:
    """Every file that publishing or rejecting may write."""
    rejected = path.with_name(path.name + ".rejected")
    return [place.with_name(place.name + end) for place in (path, rejected) for end in ("", ".json", ".data")]
