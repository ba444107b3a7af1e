"""Sparse tensors (COO) of a file become dense ones; this project never writes them."""

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mlcompress.errors import ModelError
from mlcompress.graph.structure import nodes, subgraphs

_LARGEST = 2**30
"""Bytes of a dense tensor made from a sparse one."""
_SPARSEST = 1024
"""Times what is stored, and 1 MiB: a few bytes must not ask for all memory."""


def densify(proto: onnx.ModelProto) -> None:
    """Replace sparse initializers and sparse Constant values by dense tensors, in place.

    Raises ModelError for indices outside the shape.
    """
    for graph in _graphs(proto.graph):
        graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in nodes(proto.graph):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                dense = _dense(attribute.sparse_tensor)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in nodes(graph):
        yield from subgraphs(node)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name, shape = sparse.values.name, list(sparse.dims)
    if any(size < 0 for size in shape):
        raise ModelError(f"sparse tensor {name}: impossible shape {shape}")
    if TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
        raise ModelError(f"sparse tensor {name}: external data is not supported; store the tensor densely")
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    wanted, stored = prod(shape) * values.itemsize, values.nbytes + indices.nbytes
    if wanted > min(_LARGEST, 2**20 + _SPARSEST * stored):
        raise ModelError(
            f"sparse tensor {name}: shape {shape} is too large for the {values.size} numbers in it; "
            "store the tensor densely"
        )
    dense = np.zeros(shape, values.dtype)
    count = values.size
    if indices.shape == (count,):
        places = indices.astype(np.int64)
        inside = ((places >= 0) & (places < dense.size)).all()
    elif indices.shape == (count, len(shape)):
        inside = ((indices >= 0) & (indices < np.array(shape))).all()
        places = np.ravel_multi_index(tuple(indices.T), shape) if inside else indices
    else:
        raise ModelError(f"sparse tensor {name}: {count} values with indices of shape {list(indices.shape)}")
    if not inside:
        raise ModelError(f"sparse tensor {name}: indices outside its shape {shape}")
    dense.reshape(-1)[places] = values
    return numpy_helper.from_array(dense, name)
