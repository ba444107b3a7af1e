"""Size on disk and numbers of parameters."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from mlcompress import files
from mlcompress.checkpoint.detect import Kind, kind
from mlcompress.errors import ModelError
from mlcompress.graph import external, formats, structure

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Size:
    """What a model needs on disk. Bytes cover the file and its external data; `sha256` is the file's own."""

    bytes: int
    compressed_bytes: int
    """After gzip -6, each file by itself. Zeros and few distinct values show only here."""
    sha256: str
    data_files: tuple[str, ...] = ()
    """External data, as named in the model, relative to its folder."""

    def as_json(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "compressed_bytes": self.compressed_bytes, "sha256": self.sha256}


def on_disk(path: Path) -> Size:
    """Measure a checkpoint of any kind: an ONNX file and the external data it names, or `files.parts`.

    Raises:
        ModelError: not a readable ONNX file, or its data are missing or lie outside the model's folder.
        UnsupportedError: a model of another format.
    """
    names = external_data(path) if kind(path) is Kind.ONNX else ()
    whole = [alone(part) for part in (*files.parts(path), *(path.parent / name for name in names))]
    return Size(
        sum(part.bytes for part in whole),
        sum(part.compressed_bytes for part in whole),
        files.sha256(path) if path.is_dir() else whole[0].sha256,
        names,
    )


def alone(path: Path) -> Size:
    """Measure one file of any format."""
    return Size(path.stat().st_size, _gzip_bytes(path), files.sha256(path))


def external_data(path: Path) -> tuple[str, ...]:
    """Files beside the model that hold its tensors, relative to its folder, each once, sorted.

    Raises ModelError and UnsupportedError as `on_disk`.
    """
    proto = formats.read(path)
    if problems := external.problems(proto, path.parent):
        raise ModelError(*(f"{path}: {problem}" for problem in problems))
    entries = (
        entry
        for _, tensor in structure.tensors(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
    )
    return tuple(sorted({entry.value for entry in entries if entry.key == "location"}))


def _gzip_bytes(path: Path) -> int:
    """Size of `gzip -6`, without holding the file: 16 + 15 window bits ask zlib for gzip's header and
    checksum."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total += len(packer.compress(block))
    return total + len(packer.flush())
