"""The nine real topologies that ship with the onnx package, with random weights and a dynamic batch.

Their weights are ConstantOfShape nodes; all widths are divided by 8 where that is possible, so that nine nets of
up to 144 million weights are a matter of seconds.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from mlcompress import graph

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
WHOLE = ("shufflenet", "squeezenet")
"""Small as they are; eighths would not fit the groups of the first."""


def light(name: str) -> ir.Model:
    """A cleaned model with seeded weights."""
    proto = onnx.load(FOLDER / f"light_{name}.onnx")
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    by = 1 if name in WHOLE else 8
    variances = {node.input[4] for node in proto.graph.node if node.op_type == "BatchNormalization"}
    targets = {node.input[1] for node in proto.graph.node if node.op_type == "Reshape"}
    rng = np.random.default_rng(0)
    nodes = [node for node in proto.graph.node if node.op_type != "ConstantOfShape"]
    read = {name for node in nodes for name in node.input}
    shapes = {name: list(array.shape) for name, array in given.items() if array.dtype == np.float32} | {
        node.output[0]: list(given[node.input[0]])
        for node in proto.graph.node
        if node.op_type == "ConstantOfShape"
    }
    kept = {
        name: _random(rng, [_width(size, by) for size in shape], name in variances)
        for name, shape in shapes.items()
        if name in read
    }
    kept |= {name: _target(given[name].tolist(), by) for name in targets}
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in kept.items())
    inputs = [value for value in proto.graph.input if value.name not in given]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for size in proto.graph.output[0].type.tensor_type.shape.dim[1:]:
        size.dim_value = _width(size.dim_value, by)
    model = ir.serde.deserialize_model(proto)
    graph.clean(model)
    return model


def _width(size: int, by: int) -> int:
    return int(size) // by if size % by == 0 and size >= 16 else int(size)


def _target(shape: list[int], by: int) -> np.ndarray:
    """A batch of 1 becomes any; a weight keeps its rows."""
    return np.array([0 if shape[0] == 1 else _width(shape[0], by), *(_width(size, by) for size in shape[1:])])


def _random(rng: np.random.Generator, shape: list[int], positive: bool) -> np.ndarray:
    if positive:
        return (0.5 + rng.random(shape)).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.5
    return (rng.standard_normal(shape) * scale).astype(np.float32)
