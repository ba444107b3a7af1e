"""Small graphs as ONNX text, with seeded weights."""

from textwrap import dedent

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from mlcompress import graph
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.graph.session import Level, session
from mlcompress.measure.executed import profile

Arrays = dict[str, np.ndarray]


def build(text: str, weights: Arrays, opset: int = 18) -> ir.Model:
    """The graph of `text` with these initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>' + dedent(text))
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


RESIDUAL = """
    g (float[batch, 1, 8, 8] image) => (float[batch, 4] logits) {
        [stem] c1 = Conv <pads = [1, 1, 1, 1]> (image, stem_weight, stem_bias)
        [relu1] r1 = Relu (c1)
        [body] c2 = Conv <pads = [1, 1, 1, 1]> (r1, body_weight)
        [norm] n2 = BatchNormalization (c2, norm_gain, norm_shift, norm_mean, norm_var)
        [add] s = Add (n2, r1)
        [relu2] r2 = Relu (s)
        [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        [deep] c3 = Conv <group = 16, pads = [1, 1, 1, 1]> (p, deep_weight, deep_bias)
        [clip] k = Clip (c3, zero, six)
        [mean] m = GlobalAveragePool (k)
        [flat] f = Flatten (m)
        [fc] logits = Gemm <transB = 1> (f, fc_weight, fc_bias)
    }
"""


def residual(seed: int = 0) -> ir.Model:
    """Conv-Relu, Conv-BN, residual Add-Relu, MaxPool, depthwise Conv-Clip, mean, Gemm."""
    rng = np.random.default_rng(seed)
    return build(
        RESIDUAL,
        {
            "stem_weight": floats(rng, 16, 1, 3, 3, scale=0.5),
            "stem_bias": floats(rng, 16, scale=0.1),
            "body_weight": floats(rng, 16, 16, 3, 3, scale=0.1),
            "norm_gain": rng.uniform(0.5, 1.5, 16).astype(np.float32),
            "norm_shift": floats(rng, 16, scale=0.1),
            "norm_mean": floats(rng, 16, scale=0.1),
            "norm_var": rng.uniform(0.5, 1.5, 16).astype(np.float32),
            "deep_weight": floats(rng, 16, 1, 3, 3, scale=0.5),
            "deep_bias": floats(rng, 16, scale=0.1),
            "zero": np.float32(0),
            "six": np.float32(6),
            "fc_weight": floats(rng, 4, 16, scale=0.5),
            "fc_bias": floats(rng, 4, scale=0.1),
        },
    )


PERCEPTRON = """
    g (float[batch, 32] x) => (float[batch, 8] y) {
        [one] a = MatMul (x, one_weight)
        [bias] b = Add (a, one_bias)
        [act] c = Relu (b)
        [two] d = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (c, two_weight, two_bias)
        [soft] e = Softmax <axis = -1> (d)
        [three] y = Gemm (e, three_weight)
    }
"""


def perceptron(seed: int = 0) -> ir.Model:
    """MatMul with a bias, Gemm with transB, alpha and beta, Gemm without a bias."""
    rng = np.random.default_rng(seed)
    return build(
        PERCEPTRON,
        {
            "one_weight": floats(rng, 32, 64, scale=0.2),
            "one_bias": floats(rng, 64, scale=0.1),
            "two_weight": floats(rng, 48, 64, scale=0.2),
            "two_bias": floats(rng, 48, scale=0.1),
            "three_weight": floats(rng, 48, 8),
        },
    )


def pictures(count: int, seed: int = 1) -> Dataset:
    return from_arrays({"image": floats(np.random.default_rng(seed), count, 1, 8, 8)})


def rows(count: int, seed: int = 1) -> Dataset:
    return from_arrays({"x": floats(np.random.default_rng(seed), count, 32)})


def outputs(model: ir.Model, feed: Arrays, level: Level = Level.ORT_ENABLE_ALL) -> list[np.ndarray]:
    """What onnxruntime computes."""
    found: list[np.ndarray] = runner(model, level).run(None, feed)
    return found


def runner(model: ir.Model, level: Level = Level.ORT_ENABLE_ALL) -> ort.InferenceSession:
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(model)))
    return session(graph.to_bytes(model), level)


def decibels(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal-to-noise ratio."""
    noise = np.sum((reference.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / noise))


def kernels(model: ir.Model, feed: Arrays) -> dict[str, int]:
    """What onnxruntime runs, by op type."""
    return profile(graph.to_bytes(model), feed).ops


def fix_batch(model: ir.Model, size: int) -> ir.Model:
    """The model with its first axis, at inputs and outputs, a number."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape([size, *value.shape[1:]]) if value.shape is not None else None
    return model


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    if tensor is None:
        raise KeyError(name)
    return tensor.numpy()
