"""What a file is, by its content, and ONNX bytes to a protobuf message."""

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from mlcompress.errors import ModelError, UnsupportedError

LARGEST_MESSAGE = 2**31 - 1
"""Bytes of the largest protobuf message."""

_EXPORT = "export it with torch.onnx.export(..., dynamo=True, optimize=False)"
_WEIGHTS = "save module.state_dict() with torch.save or safetensors, and name model.factory in the recipe"
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x80\x02", f"a pickle, which is not opened because it can run code; {_WEIGHTS}"),
    (0, b"\x80\x03", f"a pickle, which is not opened because it can run code; {_WEIGHTS}"),
    (0, b"\x80\x04", f"a pickle, which is not opened because it can run code; {_WEIGHTS}"),
    (0, b"\x80\x05", f"a pickle, which is not opened because it can run code; {_WEIGHTS}"),
    (0, b"\x93NUMPY", "a numpy array, not a model; give an ONNX file"),
    (0, b"\x89HDF", "an HDF5 file (Keras?); convert it with tf2onnx"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (0, b"GGUF", "a GGUF file; give an ONNX file"),
    (4, b"TFL3", "a TensorFlow Lite file; convert it with tf2onnx"),
    (4, b"ORTM", "an ORT format file, which cannot be edited; give the ONNX file it was made from"),
    (257, b"ustar", "a tar archive (torch before 0.1.10?); save module.state_dict() again with torch.save"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
)


def read(path: Path) -> onnx.ModelProto:
    """The message in an ONNX file, external data not read.

    Raises ModelError for a file that is missing, empty, too large, truncated or no model, and
    UnsupportedError for a model of another format; each says what to do.
    """
    if path.is_dir():
        raise ModelError(f"{path}: is a folder without config.json; name the model file in it")
    try:
        size = path.stat().st_size
        if size > LARGEST_MESSAGE:
            raise ModelError(
                f"{path}: {size} bytes do not fit a protobuf message; save it with external data"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise ModelError(f"{path}: is empty; copy or export it again")
    _refuse_other_formats(path, data)
    return _parse(path, data)


def _refuse_other_formats(path: Path, data: bytes) -> None:
    if data[:4] == b"PK\x03\x04":
        raise UnsupportedError(f"{path}: {_archive(data)}")
    for offset, magic, text in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            raise UnsupportedError(f"{path}: is {text}")
    header = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 2 <= header <= len(data) - 8:
        raise UnsupportedError(
            f"{path}: is a safetensors file: weights without a graph; name model.factory in the recipe"
        )
    head = data[:512]
    if head.lstrip()[:1] in (b"<", b"{", b"#") or _is_text(head):
        raise UnsupportedError(f"{path}: is text, not an ONNX protobuf; give the binary .onnx file")


def _archive(data: bytes) -> str:
    """What a zip holds, told by the names in it; nothing is unpacked."""
    if b"/constants.pkl" in data or b"/code/__torch__" in data:
        return f"is a TorchScript archive; {_EXPORT}"
    if b"/data.pkl" in data:
        return "is a torch checkpoint (weights without a graph); name model.factory in the recipe"
    if b".npy" in data:
        return "is a numpy archive, not a model; give an ONNX file"
    return "is a zip archive; unpack it and give the .onnx file"


def _is_text(head: bytes) -> bool:
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path}: is not a complete ONNX protobuf (truncated, or another format)") from None
    if not proto.ir_version or not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path}: is not an ONNX model (no IR version, opset or graph in it)")
    if not _is_readable(proto):
        raise ModelError(f"{path}: is damaged: a name in it is not valid UTF-8; copy or export it again")
    return proto


def _is_readable(message: Message) -> bool:
    """Are all strings valid UTF-8? (protobuf gives bytes for those that are not.)"""
    for field, value in _fields(message):
        if field.type == field.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            if not all(isinstance(text, str) for text in texts):
                return False
        if field.type == field.TYPE_MESSAGE:
            inner = [value] if isinstance(value, Message) else value
            if not all(map(_is_readable, inner)):
                return False
    return True


def _fields(message: Message) -> list[tuple[Any, Any]]:
    """Set fields, of a tensor without its numbers."""
    if not isinstance(message, onnx.TensorProto):
        return list(message.ListFields())
    names = message.DESCRIPTOR.fields_by_name
    return [(names[name], getattr(message, name)) for name in ("name", "external_data")]
