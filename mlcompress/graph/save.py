"""Graph to bytes and files, the same bytes each time."""

from copy import copy as shallow_copy
from pathlib import Path

import onnx
import onnx_ir as ir

from mlcompress import __version__
from mlcompress.errors import ModelError
from mlcompress.graph.initializers import initializers
from mlcompress.graph.structure import subgraphs

INLINE_LIMIT = 2**31 - 2**26
"""Bytes of initializers that fit one protobuf message (2 GiB) beside the graph itself."""
_EXTERNAL_FROM = 1024
"""Bytes from which a tensor goes to the data file, where there is one: shape constants must stay readable."""
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


def to_bytes(model: ir.Model) -> bytes:
    """Deterministic ModelProto bytes with all tensors inside. Raises ModelError above 2 GiB."""
    if not fits_message(model):
        raise ModelError(
            f"model: {tensor_bytes(model) / 2**30:.1f} GiB do not fit one protobuf message; save it to a file"
        )
    data: bytes = message(model).SerializeToString(deterministic=True)
    return data


def save(model: ir.Model, path: Path | str) -> list[Path]:
    """Write `path` and return the files written: above 2 GiB, large tensors go to `<path>.data` beside it.

    Existing files are unlinked first, not written into, so a graph whose tensors are mapped from them stays
    valid. Raises ModelError when a file cannot be written.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
        if fits_message(model):
            path.write_bytes(to_bytes(model))
            return [path]
        data = path.with_name(path.name + ".data")
        data.unlink(missing_ok=True)
        path.write_bytes(_with_data_file(model, data).SerializeToString(deterministic=True))
        return [path, data]
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None


def _with_data_file(model: ir.Model, data: Path) -> onnx.ModelProto:
    """Write large tensors to `data`; the message refers to them by the file's name."""
    outline = model.clone()
    with data.open("wb") as file:
        for value in initializers(outline):
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _EXTERNAL_FROM or tensor.dtype == ir.DataType.STRING:
                continue
            file.write(bytes(-file.tell() % _ALIGNMENT))
            place, size, name = file.tell(), tensor.nbytes, str(value.name)
            file.write(tensor.tobytes())
            shape = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor(
                data.name, place, size, tensor.dtype, shape=shape, name=name
            )
    return message(outline)


def message(model: ir.Model) -> onnx.ModelProto:
    """The ModelProto that is written: own producer, sorted imports, no shapes that can be inferred again."""
    proto = ir.serde.serialize_model(model)
    proto.producer_name, proto.producer_version = "mlcompress", __version__
    imports = sorted(proto.opset_import, key=lambda entry: entry.domain)
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    _drop_inferable_shapes(proto.graph)
    return proto


def _drop_inferable_shapes(graph: onnx.GraphProto) -> None:
    """Shapes inside the graph cost bytes and may be stale; only those of contrib ops cannot be inferred."""
    contrib = {name for node in graph.node if node.domain for name in node.output}
    kept = [info for info in graph.value_info if info.name in contrib]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for node in graph.node:
        for inner in subgraphs(node):
            _drop_inferable_shapes(inner)
