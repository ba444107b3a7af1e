"""New random weights for a graph, by what each node does with them."""

from collections.abc import Callable, Iterator
from math import prod, sqrt

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], NDArray[np.float64]]

_NORMS = {
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_EMBEDDING_STD = 0.02  # as BERT and GPT-2 do
_PRELU_SLOPE = 0.25  # He et al. 2015, section 2.1


def reinitialise(model: ir.Model, seed: int) -> list[str]:
    """Replace the float weights of `model` by seeded random ones; returns those that were left, as no rule
    names them.

    Convolutions: He et al. 2015, normal with std sqrt(2 / fan_in). Gemm, MatMul: Glorot and Bengio 2010,
        uniform within sqrt(6 / (fan_in + fan_out)). Recurrent: uniform within 1 / sqrt(hidden). Embeddings:
        normal, std 0.02. Biases 0, normalisation scales 1, running mean 0 and variance 1. A tied weight is
        drawn once, by its first use.
    """
    rng = np.random.default_rng(seed)
    done: set[str] = set()
    for node in model.graph.all_nodes():
        for value, draw in _slots(node):
            tensor = None if value is None else value.const_value
            if value is None or tensor is None or not value.is_initializer() or str(value.name) in done:
                continue
            if not tensor.dtype.is_floating_point():
                continue
            shape = tuple(tensor.shape.numpy())
            numbers = draw(rng, shape).astype(tensor.dtype.numpy())
            value.const_value = ir.Tensor(numbers, name=value.name)
            done.add(str(value.name))
    floats = [
        str(v.name)
        for v in model.graph.initializers.values()
        if v.dtype is not None and v.dtype.is_floating_point()
    ]
    return [name for name in floats if name not in done]


def _slots(node: ir.Node) -> Iterator[tuple[ir.Value | None, Draw]]:
    """The weight inputs of a node, and how each is drawn."""
    inputs = node.inputs
    if node.domain not in ("", "ai.onnx") or len(inputs) < 2:
        return
    if node.op_type == "Conv":
        yield from zip(inputs[1:], (lambda rng, s: _he(rng, s, prod(s[1:])), _constant(0)), strict=False)
    elif node.op_type == "ConvTranspose":
        groups = node.attributes.get_int("group", 1)
        yield from zip(
            inputs[1:], (lambda rng, s: _he(rng, s, s[0] // groups * prod(s[2:])), _constant(0)), strict=False
        )
    elif node.op_type == "Gemm":
        yield from zip(inputs[1:], (_glorot, _constant(0)), strict=False)
    elif node.op_type == "MatMul":
        yield from ((value, _glorot) for value in inputs)
        for reader in node.outputs[0].consumers():
            if reader.op_type == "Add":
                yield from (
                    (v, _constant(0))
                    for v in reader.inputs
                    if v is not None and v.shape is not None and len(v.shape) == 1
                )
    elif node.op_type == "BatchNormalization":
        yield from zip(inputs[1:], (_constant(1), _constant(0), _constant(0), _constant(1)), strict=False)
    elif node.op_type in _NORMS:
        yield from zip(inputs[1:], (_constant(1), _constant(0)), strict=False)
    elif node.op_type in _RECURRENT:
        bound = 1 / sqrt(node.attributes.get_int("hidden_size", 1))
        yield from ((value, _uniform(bound)) for value in inputs[1:4])
    elif node.op_type == "Gather":
        yield inputs[0], lambda rng, shape: rng.normal(0, _EMBEDDING_STD, shape)
    elif node.op_type == "PRelu":
        yield inputs[1], _constant(_PRELU_SLOPE)


def _he(rng: np.random.Generator, shape: Shape, fan_in: int) -> NDArray[np.float64]:
    return rng.normal(0, sqrt(2 / fan_in), shape)


def _glorot(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    bound = sqrt(6 / sum(shape[-2:]))
    return rng.uniform(-bound, bound, shape)


def _uniform(bound: float) -> Draw:
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


def _constant(number: float) -> Draw:
    return lambda rng, shape: np.full(shape, number, np.float64)
