"""Is the graph in a file well formed? Checked on the message, before anything is built from it.
 onnx.checker is stricter than what runs (order of nodes, declared ranks), so only what onnxruntime refuses
as well is refused here: names defined twice, values nobody defines, cycles, tensors whose data do not fit
their shape.
"""

from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from math import prod

import numpy as np
import onnx
from onnx import TensorProto

from mlcompress.errors import shorten
from mlcompress.graph import expansion

_BITS = {
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{getattr(TensorProto, name): 2 for name in ("UINT2", "INT2") if hasattr(TensorProto, name)},
}
_FIELDS = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
LARGEST_TENSOR = 2**40
"""Elements of a declared shape beyond which a file is not believed."""


def problems(model: onnx.ModelProto) -> list[str]:
    """What is wrong with tensors, graphs and functions, one line each; an empty list when nothing is."""
    found = [(name, _tensor(tensor)) for name, tensor in tensors(model)]
    lines = [f"tensor {name}: {problem}" for name, problem in found if problem]
    lines += _graph(model.graph, frozenset())
    lines += _interface(model.graph) + expansion.problems(model)
    for function in model.functions:
        known = {*function.input, *(name for node in function.node for name in node.output)}
        if missing := [n for n in _undefined(function.node, known) if n]:
            lines.append(f"function {function.name}: values that nothing defines: {shorten(missing)}")
    return lines


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of sub-graphs included."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """(name for messages, tensor) of all initializers and tensor attributes."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, sparse.values
        yield sparse.values.name, sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[tuple[str, TensorProto]]:
    label = node.output[0] if node.output else node.name
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield label, attribute.t
        elif attribute.type == onnx.AttributeProto.TENSORS:
            yield from ((label, tensor) for tensor in attribute.tensors)
        elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            yield label, attribute.sparse_tensor.values
            yield label, attribute.sparse_tensor.indices
    for inner in subgraphs(node):
        yield from _graph_tensors(inner)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes that shape and type ask for (0 for strings). Raises ValueError where they are impossible."""
    if any(size < 0 for size in tensor.dims) or prod(tensor.dims) > LARGEST_TENSOR:
        raise ValueError(f"impossible shape {list(tensor.dims)}")
    if tensor.data_type == TensorProto.STRING:
        return 0
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        try:
            bits = 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        except KeyError:
            raise ValueError(f"unknown element type {tensor.data_type}") from None
    return (int(prod(tensor.dims)) * bits + 7) // 8


def _tensor(tensor: TensorProto) -> str | None:
    """Why the data inside a tensor does not fit its shape, or None."""
    try:
        wanted = tensor_bytes(tensor)
    except ValueError as error:
        return str(error)
    if tensor.data_location == TensorProto.EXTERNAL:
        return None
    if tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
        return (
            None if found == wanted else f"{found} bytes of data, {wanted} by its shape {list(tensor.dims)}"
        )
    values = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data")))
    bits = _BITS.get(tensor.data_type, 8)
    expected = prod(tensor.dims) * (
        2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    )
    expected = -(-expected * bits // 8) if bits < 8 else expected
    return None if values == expected else f"{values} values, {expected} by its shape {list(tensor.dims)}"


def _graph(graph: onnx.GraphProto, outer: frozenset[str]) -> list[str]:
    stored = [tensor.name for tensor in graph.initializer]
    stored += [tensor.values.name for tensor in graph.sparse_initializer]
    produced = [name for node in graph.node for name in node.output if name]
    inputs = [
        value.name for value in graph.input if value.name not in stored
    ]  # an initializer may be listed there
    defined = Counter([*inputs, *stored, *produced])
    lines = []
    if twice := [name for name, count in defined.items() if count > 1 or name in outer]:
        lines.append(f"values defined more than once: {shorten(twice)}")
    known = outer | set(defined)
    if missing := _undefined(graph.node, known):
        lines.append(f"values that nothing defines: {shorten(missing)}")
    if missing := [value.name for value in graph.output if value.name not in known]:
        lines.append(f"outputs that nothing defines: {shorten(missing)}")
    names = Counter(node.name for node in graph.node if node.name)  # two bodies may use the same ones
    if same := [name for name, count in names.items() if count > 1]:
        lines.append(f"several nodes have the same name: {shorten(same)}")
    if cycle := _cycle(graph):
        lines.append(f"the graph has a cycle through {shorten(cycle)}")
    for node in graph.node:
        for inner in subgraphs(node):
            lines += _graph(inner, known)
    return lines


def _interface(graph: onnx.GraphProto) -> list[str]:
    names = Counter(value.name for value in graph.output)
    twice = [name for name, count in names.items() if count > 1]
    if not names:
        return ["the graph has no outputs"]
    return [f"outputs listed more than once: {shorten(twice)}"] if twice else []


def _undefined(listed: "list[onnx.NodeProto]", known: "set[str] | frozenset[str]") -> list[str]:
    return list(dict.fromkeys(name for node in listed for name in node.input if name and name not in known))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Values a node reads, also from inside its sub-graphs."""
    yield from node.input
    for inner in subgraphs(node):
        for child in inner.node:
            yield from _reads(child)
        yield from (value.name for value in inner.output)


def _cycle(graph: onnx.GraphProto) -> list[str]:
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, node in enumerate(graph.node):
        sorter.add(index, *(makers[name] for name in _reads(node) if name in makers))
    try:
        sorter.prepare()
    except CycleError as error:
        members = dict.fromkeys(error.args[1])
        return [graph.node[i].name or graph.node[i].output[0] for i in members]
    return []


def is_sorted(graph: onnx.GraphProto) -> bool:
    """Is every value defined before it is read (at the top and in sub-graphs)?"""
    makers = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if not makers.isdisjoint(_reads(node)):
            return False
        makers.difference_update(node.output)
    return all(is_sorted(inner) for node in graph.node for inner in subgraphs(node))
