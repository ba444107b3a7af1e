"""A model's message tensor by tensor: what a file holds and how large it is, without copies of weights.

protobuf writes fields by their numbers, a tensor's raw data after its other fields; so the message can be put
together from the bytes around large tensors and the tensors themselves, and is the same byte for byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from mlcompress import __version__
from mlcompress.graph.structure import subgraphs

SMALL = 1024
"""Bytes below which a tensor is not worth the trouble: shape constants stay readable."""
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_LENGTH_DELIMITED = 2


@dataclass(frozen=True)
class Piece:
    """Bytes of the message, and the tensor whose raw data follow them."""

    head: bytes
    tensor: ir.TensorProtocol | None = None

    def __len__(self) -> int:
        return len(self.head) + (0 if self.tensor is None else self.tensor.nbytes)

    def parts(self) -> Iterator[bytes | memoryview]:
        yield self.head
        if self.tensor is not None:
            yield raw(self.tensor)


def raw(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """The numbers as a file holds them; not a copy where the array lies in memory like that."""
    if tensor.dtype.bitwidth < 8 or not np.little_endian:
        data: bytes = tensor.tobytes()
        return data
    array = np.ascontiguousarray(tensor.numpy())
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def large(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer, if its numbers are to be kept out of other messages."""
    tensor = value.const_value
    if tensor is None or tensor.nbytes < SMALL or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor


def message(model: ir.Model) -> onnx.ModelProto:
    """The ModelProto that is written: own producer, sorted imports, no shapes that can be inferred again."""
    proto = ir.serde.serialize_model(model)
    proto.producer_name, proto.producer_version = "mlcompress", __version__
    imports = sorted(proto.opset_import, key=lambda entry: entry.domain)
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    _drop_inferable_shapes(proto.graph)
    return proto


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of the message of a tensor that has a name, a type, a shape and numbers, and nothing else."""
    head = onnx.TensorProto(name=tensor.name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    size: int = head.ByteSize() + len(_tag(_RAW_DATA) + _varint(tensor.nbytes)) + tensor.nbytes
    return size


def pieces(model: ir.Model) -> list[Piece]:
    """The message of `model`, in order."""
    outline, tensors = model.clone(), dict[str, ir.TensorProtocol]()
    for name, value in outline.graph.initializers.items():
        if (tensor := large(value)) is not None:
            tensors[name] = tensor
            shape = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor("", 0, 0, tensor.dtype, shape=shape, name=name)
    proto = message(outline)
    inside = _graph(proto.graph, tensors)
    first, last = _around(proto, _GRAPH)
    start = first + _tag(_GRAPH) + _varint(sum(map(len, inside)))
    return [Piece(start), *inside, Piece(last)]


def _graph(proto: onnx.GraphProto, tensors: dict[str, ir.TensorProtocol]) -> list[Piece]:
    first, last = _around(proto, _INITIALIZER)
    found = [Piece(first)]
    for held in proto.initializer:
        tensor = tensors.get(held.name)
        if tensor is None:
            head, size = _bytes(held), held.ByteSize()
        else:
            held.ClearField("external_data")
            held.ClearField("data_location")
            head = _bytes(held) + _tag(_RAW_DATA) + _varint(tensor.nbytes)
            size = len(head) + tensor.nbytes
        found.append(Piece(_tag(_INITIALIZER) + _varint(size) + head, tensor))
    return [*found, Piece(last)]


def _around(proto: onnx.ModelProto | onnx.GraphProto, field: int) -> tuple[bytes, bytes]:
    """The bytes of the fields before and after one."""
    before, after = type(proto)(), type(proto)()
    before.CopyFrom(proto)
    after.CopyFrom(proto)
    for descriptor, _ in proto.ListFields():
        if descriptor.number >= field:
            before.ClearField(descriptor.name)
        if descriptor.number <= field:
            after.ClearField(descriptor.name)
    return _bytes(before), _bytes(after)


def _bytes(proto: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto) -> bytes:
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _drop_inferable_shapes(graph: onnx.GraphProto) -> None:
    """Shapes inside the graph cost bytes and may be stale; only those of contrib ops cannot be inferred."""
    contrib = {name for node in graph.node if node.domain for name in node.output}
    kept = [info for info in graph.value_info if info.name in contrib]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for node in graph.node:
        for inner in subgraphs(node):
            _drop_inferable_shapes(inner)
