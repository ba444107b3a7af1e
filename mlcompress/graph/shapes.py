"""Shapes: of values where they can be proven, and of example inputs where axes are dynamic."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from mlcompress.errors import ModelError
from mlcompress.graph.pieces import message
from mlcompress.graph.save import copy
from mlcompress.graph.signature import Signature, Tensor
from mlcompress.graph.structure import subgraphs

OTHER_AXES = 16
"""Length of a dynamic axis that is not the batch, where nothing else is known."""
_SMALL = 1024
"""Bytes of an initializer that shape inference may look at."""
_LONGEST = 2**20
"""Entries of a vector that onnx may take for a shape: it makes room for every one of them."""


def infer_shapes(model: ir.Model) -> None:
    """Set type and shape of every value where ONNX can infer it, in place.

    Inputs and outputs keep what they declare; only an output that declares no shape is given one. Static data
    is propagated (Reshape targets, Slice bounds). What cannot be inferred (contrib ops) stays as it is.
    """
    outline = _outline(model)
    static = onnx.shape_inference.infer_shapes(outline, check_type=False, strict_mode=False, data_prop=False)
    if not _has_long_vector(static.graph):
        static = onnx.shape_inference.infer_shapes(
            outline, check_type=False, strict_mode=False, data_prop=True
        )
    found = ir.serde.deserialize_model(static)
    declared = set(model.graph.outputs)
    for graph, inferred in zip(model.graphs(), found.graphs(), strict=True):
        known = {str(v.name): v for node in inferred for v in node.outputs if v.name}
        for value in (value for node in graph for value in node.outputs if value.name in known):
            source = known[str(value.name)]
            if value in declared and value.shape is not None:
                continue
            value.shape = source.shape if source.shape is not None else value.shape
            value.type = source.type if source.type is not None else value.type


def example_shapes(
    signature: Signature,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    other: int = OTHER_AXES,
) -> dict[str, tuple[int, ...]]:
    """A static shape for every input.

    Dynamic axes that are named like a batch ("batch", "N", "B", ...) become `batch`, or without such names
    the first axes and those named like one; others become `other`. `shapes` gives whole shapes by input name,
    and so the lengths of all axes of the same names.
    Raises ModelError for names and shapes that do not fit the signature.
    """
    given = dict(shapes or {})
    names = {tensor.name: tensor for tensor in signature.inputs}
    lines = [
        f"shapes: the model has no input {name!r}; inputs: {', '.join(names)}"
        for name in given
        if name not in names
    ]
    lines += [
        f"shapes: {list(shape)} does not fit input {name!r} of shape {list(names[name].shape)}"
        for name, shape in given.items()
        if name in names and not _fits(names[name], shape)
    ]
    if lines:
        raise ModelError(*lines)
    axes = {size for tensor in signature.inputs for size in tensor.shape if isinstance(size, str)}
    batches = {size for size in axes if "batch" in size.lower() or size.lower() in ("n", "b")}
    batches = batches or axes.intersection(tensor.shape[0] for tensor in signature.inputs if tensor.shape)

    known = {
        size: length
        for name, shape in given.items()
        for size, length in zip(names[name].shape, shape, strict=True)
        if isinstance(size, str)
    }

    def length(axis: int, size: int | str | None) -> int:
        if isinstance(size, int):
            return size
        if size in known:
            return known[size]
        return batch if size in batches or (axis == 0 and size is None) else other

    return {
        tensor.name: tuple(
            given.get(tensor.name, [length(axis, size) for axis, size in enumerate(tensor.shape)])
        )
        for tensor in signature.inputs
    }


def at_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy of `model` whose inputs have these static shapes, those of all values inferred from them."""
    made = copy(model)
    for value in made.graph.inputs:
        value.shape = ir.Shape(shapes[str(value.name)])
    for graph in made.graphs():
        for value in graph.outputs:
            value.shape = None
    infer_shapes(made)
    return made


def example_feed(signature: Signature, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Seeded inputs: standard normal numbers; zeros and ones for integers and booleans (valid as indices)."""
    rng = np.random.default_rng(0)
    feed = {}
    for tensor in signature.inputs:
        shape = tuple(shapes[tensor.name])
        if tensor.dtype.kind in "iub":
            feed[tensor.name] = rng.integers(0, 2, shape).astype(tensor.dtype)
        elif tensor.dtype.kind == "f":
            feed[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
        else:
            feed[tensor.name] = np.full(shape, "", dtype=object)
    return feed


def _has_long_vector(graph: onnx.GraphProto) -> bool:
    """Is there a vector of integers that propagating its entries would cost too much memory?"""
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if len(kind.shape.dim) == 1 and kind.shape.dim[0].dim_value > _LONGEST:
            return True
    return any(_has_long_vector(inner) for node in graph.node for inner in subgraphs(node))


def _fits(tensor: Tensor, shape: Sequence[int]) -> bool:
    return len(shape) == len(tensor.shape) and all(
        size > 0 and (not isinstance(declared, int) or declared == size)
        for declared, size in zip(tensor.shape, shape, strict=True)
    )


def _outline(model: ir.Model) -> onnx.ModelProto:
    """The message of the model with large initializers turned into inputs, so that it stays below 2 GiB."""
    outline = model.clone()
    for name, value in list(outline.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _SMALL:
            del outline.graph.initializers[name]
            outline.graph.inputs.append(value)
    for graph in outline.graphs():
        for value in graph.outputs:
            value.shape = None  # a wrong declaration would stop inference
    return message(outline)
