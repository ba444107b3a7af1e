"""What a checkpoint is, told by its content: headers and zip directories are read, nothing is unpacked."""

import zipfile
from enum import StrEnum, auto
from pathlib import Path

_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What `torch.save` wrote first before it wrote zip archives, after two bytes of pickle protocol."""


class Kind(StrEnum):
    """Kinds of checkpoints. Whatever is none of the others is `ONNX`, whose reader refuses what it is not."""

    ONNX = auto()
    TORCH = auto()
    """A zip archive of torch.save."""
    TORCH_LEGACY = auto()
    """The same from before torch 1.6: pickles and numbers in one stream."""
    SAFETENSORS = auto()
    TORCHSCRIPT = auto()
    PROGRAM = auto()
    """torch.export.save."""
    HUGGINGFACE = auto()
    """A folder with config.json and weights."""


WEIGHTS = frozenset([Kind.TORCH, Kind.TORCH_LEGACY, Kind.SAFETENSORS])
"""Kinds that hold weights without a graph."""


def kind(path: Path) -> Kind:
    """The kind of a file or folder; `Kind.ONNX` also for what cannot be read."""
    if path.is_dir():
        return Kind.HUGGINGFACE if (path / "config.json").is_file() else Kind.ONNX
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return Kind.ONNX
    if head[:4] == b"PK\x03\x04":
        return _archive(path)
    if head[2 : 2 + len(_TORCH_MAGIC)] == _TORCH_MAGIC:
        return Kind.TORCH_LEGACY
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return Kind.SAFETENSORS
    return Kind.ONNX


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (OSError, EOFError, ValueError, NotImplementedError, OverflowError, zipfile.BadZipFile):
        return Kind.TORCH if _looks_like_torch(path) else Kind.ONNX
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Kind.TORCHSCRIPT
    if {"archive_format", "models/model.json"} & inner or "serialized_exported_program.json" in names:
        return Kind.PROGRAM
    return Kind.TORCH if "data.pkl" in inner else Kind.ONNX


def _looks_like_torch(path: Path) -> bool:
    """Does an archive without a directory (cut off) begin as torch writes them?"""
    with path.open("rb") as file:
        return b"/data.pkl" in file.read(512)
