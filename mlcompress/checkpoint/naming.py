"""Names of weights that an exporter or a fold has renamed, found again by their numbers."""

from collections import defaultdict
from collections.abc import Mapping

import onnx_ir as ir
import torch

from mlcompress.graph.initializers import numbers


def restore_names(model: ir.Model, weights: Mapping[str, torch.Tensor]) -> None:
    """Give initializers that equal a weight, or the transpose of a matrix, bit for bit, its name; in place.

    Layers are exported as `MatMul` of a transposed weight, say, which folding turns into a constant of
    another name. Where several are equal they are taken in order. Names in use stay.
    """
    values = model.graph.initializers
    taken = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)}
    taken |= set(values) | {
        str(out.name) for node in ir.traversal.RecursiveGraphIterator(model.graph) for out in node.outputs
    }
    free: dict[tuple[str, tuple[int, ...], bytes], list[str]] = defaultdict(list)
    for name, tensor in weights.items():
        if name in taken or tensor.numel() < 2 or tensor.dtype == torch.bfloat16:
            continue
        array = tensor.detach().cpu().numpy()
        for form in (array, array.T) if array.ndim == 2 else (array,):
            free[form.dtype.name, form.shape, form.tobytes()].append(name)
    if not free:
        return
    given: set[str] = set()
    for value in list(values.values()):
        if value.name in weights or value.dtype == ir.DataType.STRING:
            continue
        array = numbers(value)
        names = free.get((array.dtype.name, array.shape, array.tobytes()), [])
        for found in [one for one in names if one not in given][:1]:
            given.add(found)
            _rename(model.graph, value, found)


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    graph.initializers.pop(str(value.name))
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    graph.initializers[name] = value
