"""Graph to bytes and files, the same bytes each time."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy as shallow_copy
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from mlcompress.errors import ModelError
from mlcompress.graph import mapped, structure
from mlcompress.graph.initializers import initializers
from mlcompress.graph.pieces import large, message, pieces, raw

INLINE_LIMIT = 2**31 - 2**26
"""Bytes of initializers that fit one protobuf message (2 GiB) beside the graph itself."""
DATA = ".data"
"""Ending of the name of the file that holds tensors, beside the model's own."""
IN_MEMORY = 2**28
"""Bytes of initializers up to which sessions are made of bytes, and a stage makes its tensors, in memory."""
_MUCH = 2**20
"""Bytes of a tensor after which it is worth giving back memory."""
_ALIGNMENT = 4096
"""Bytes between starts of tensors in a data file, so that they can be memory-mapped."""


def copy(model: ir.Model) -> ir.Model:
    """A deep copy that shares the numbers: give a value a new `const_value`, never write into an array."""
    made = model.clone()
    for graph in made.graphs():
        outputs = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *outputs):
            # `value.dtype = ...` writes into the type, which a clone shares with the original.
            value.type = shallow_copy(value.type)
        for name, value in graph.initializers.items():
            tensor = value.const_value  # renaming a value renames its tensor, so each has its own
            if isinstance(tensor, ir.Tensor):
                value.const_value = ir.Tensor(tensor.raw, dtype=tensor.dtype, name=name)
    return made


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, those of sub-graphs included."""
    return sum(value.const_value.nbytes for value in initializers(model) if value.const_value is not None)


def fits_message(model: ir.Model) -> bool:
    """Do all tensors fit one protobuf message?"""
    return tensor_bytes(model) <= INLINE_LIMIT


def is_small(model: ir.Model) -> bool:
    """May its bytes, and what a stage makes of it, be held in memory?"""
    return tensor_bytes(model) <= min(IN_MEMORY, INLINE_LIMIT)


def to_bytes(model: ir.Model) -> bytes:
    """Deterministic ModelProto bytes with all tensors inside. Raises ModelError above 2 GiB."""
    if not fits_message(model):
        raise ModelError(
            f"model: {tensor_bytes(model) / 2**30:.1f} GiB do not fit one protobuf message; save it to a file"
        )
    return b"".join(part for piece in pieces(model) for part in piece.parts())


def file_bytes(model: ir.Model) -> int:
    """Bytes of the files that `save` would write; of two files, without the length of their name."""
    if fits_message(model):
        return sum(map(len, pieces(model)))
    outline, placed = _outline(model, DATA)
    end = placed[-1].offset + placed[-1].tensor.nbytes if placed else 0
    size: int = _with_digest(message(outline), "0" * 40).ByteSize()
    return size + end


@contextmanager
def source(model: ir.Model, folder: Path | None = None) -> Iterator[bytes | Path]:
    """What a session can be made of: the model's bytes, or, for a large model, a file that lasts as long.

    It lies in a folder of its own inside `folder` (None: the system's temporary one).
    """
    if is_small(model):
        yield to_bytes(model)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="mlcompress-") as place:
        yield save(model, Path(place) / "model.onnx")[0]


def save(model: ir.Model, path: Path | str) -> list[Path]:
    """Write `path` and return the files written: above 2 GiB, large tensors go to `<path>.data` beside it.

    Tensors are written one at a time. Existing files are unlinked first, not written into, so a graph whose
    tensors are mapped from them stays valid. Raises ModelError when a file cannot be written.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
        if fits_message(model):
            with path.open("wb") as file:
                for piece in pieces(model):
                    file.writelines(piece.parts())
                    if len(piece) > _MUCH:
                        mapped.forget()
            return [path]
        data = path.with_name(path.name + DATA)
        data.unlink(missing_ok=True)
        outline, placed = _outline(model, data.name)
        proto = _with_digest(message(outline), _write_data(placed, data))
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return [path, data]
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class _Placed:
    """A tensor and where it starts in a data file."""

    tensor: ir.TensorProtocol
    offset: int


def _outline(model: ir.Model, location: str) -> tuple[ir.Model, list[_Placed]]:
    """The model with references to the data file in the place of large tensors, and these in file order."""
    outline, placed, end = model.clone(), list[_Placed](), 0
    for value in initializers(outline):
        if (tensor := large(value)) is None:
            continue
        start = end + -end % _ALIGNMENT
        placed.append(_Placed(tensor, start))
        end, shape = start + tensor.nbytes, ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor(
            location, start, tensor.nbytes, tensor.dtype, shape=shape, name=str(value.name)
        )
    return outline, placed


def _write_data(placed: Sequence[_Placed], path: Path) -> str:
    """Write the data file; the hex SHA-1 of it, which is what ONNX calls its checksum."""
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("wb") as file:
        for one in placed:
            for part in (bytes(one.offset - file.tell()), raw(one.tensor)):
                file.write(part)
                digest.update(part)
            if one.tensor.nbytes > _MUCH:
                mapped.forget()
    return digest.hexdigest()


def _with_digest(proto: onnx.ModelProto, digest: str) -> onnx.ModelProto:
    """The digest of the data file at its first tensor: files of other weights then have other messages."""
    for _, tensor in structure.tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.external_data.add(key="checksum", value=digest)
            break
    return proto
