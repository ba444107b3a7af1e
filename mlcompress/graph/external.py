"""Tensors whose data lies in a file beside the model.

The data file must lie inside the model's folder, also after symlinks are followed. Data is memory-mapped
once, at load: pages are read when they are needed, and a file that is later replaced (renamed over,
unlinked) does no harm. A data file that is *written into* while the model is in use changes the model, so
`save` never does that.
"""

from pathlib import Path, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto

from mlcompress.graph import mapped, structure


def problems(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """Why external tensors of `proto` cannot be read from `folder`, one line each."""
    external = [(n, t) for n, t in structure.tensors(proto) if t.data_location == TensorProto.EXTERNAL]
    found = [(name, _problem(tensor, folder)) for name, tensor in external]
    return [f"tensor {name}: {problem}" for name, problem in found if problem]


def attach(model: ir.Model, folder: Path) -> None:
    """Give all external tensors of `model` their numbers, mapped from files in `folder` (see `problems`)."""
    files: dict[str, NDArray[np.uint8]] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _mapped(value.const_value, folder, files)
        for node in graph:
            for key, attribute in node.attributes.items():
                if not attribute.is_ref() and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[key] = ir.AttrTensor(key, _mapped(attribute.value, folder, files))


def _problem(tensor: TensorProto, folder: Path) -> str | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        return "external data without a location"
    windows = PureWindowsPath(location)
    if Path(location).is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        return f"external data at {location!r}, outside the model's folder; refused"
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        wanted = structure.tensor_bytes(tensor)
    except ValueError as error:
        return str(error)
    if tensor.data_type == TensorProto.STRING:
        return "external data cannot hold strings"
    try:
        file = (folder / location).resolve()
        inside = file.is_relative_to(folder.resolve())
        size = file.stat().st_size if file.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:
        return f"external data at {location!r} cannot be read: {error}"
    if not inside:
        return f"external data at {location!r} is a link that leaves the model's folder; refused"
    if size is None:
        return f"data file {location} is missing; it must lie beside the model"
    if offset < 0 or (length >= 0 and length != wanted):
        return (
            f"data file {location}: offset {offset}, length {length}, but the shape asks for {wanted} bytes"
        )
    if offset + wanted > size:
        return f"data file {location} is too short: {size} bytes, {offset + wanted} needed; copy it again"
    return None


def _mapped(
    tensor: ir.ExternalTensor, folder: Path, files: dict[str, NDArray[np.uint8]]
) -> ir.TensorProtocol:
    location = str(tensor.location)
    if location not in files:
        files[location] = mapped.read_only(folder / location)
    start = tensor.offset or 0
    data = files[location][start : start + tensor.nbytes]
    dtype = tensor.dtype.numpy()
    if tensor.dtype.bitwidth < 8:  # several values a byte: numpy needs them apart
        packed = TensorProto(dims=tensor.shape.numpy(), data_type=int(tensor.dtype), raw_data=data.tobytes())
        array = ir.serde.TensorProtoTensor(packed).numpy()
    else:
        array = np.asarray(data).view(dtype).reshape(tensor.shape.numpy())
        array = array if array.flags.aligned else array.copy()
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
