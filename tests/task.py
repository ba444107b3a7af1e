"""A small real task: noisy 8x8 pictures of four classes, and a convolutional net that solves it.

The net is not trained by the code under test: its convolutions are random, and its last layer is fitted by ridge
regression on the features that onnxruntime computes.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4


def samples(count: int, seed: int, noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Pictures float32 [count, 1, 8, 8] and labels int64 [count]."""
    templates = np.random.default_rng(99).normal(size=(CLASSES, 1, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    pictures = templates[labels] + noise * rng.normal(size=(count, 1, 8, 8))
    return pictures.astype(np.float32), labels.astype(np.int64)


def save_samples(path: Path, count: int, seed: int) -> None:
    """An .npz with `image` and `y`."""
    image, labels = samples(count, seed)
    np.savez(path, image=image, y=labels)


def net(channels: tuple[int, int] = (16, 32), seed: int = 0) -> onnx.ModelProto:
    """Conv-BN-Relu, a residual Conv-BN, Conv-Relu, global mean, Gemm; `image` [batch, 1, 8, 8] -> `logits` [batch, 4]."""
    rng = np.random.default_rng(seed)
    a, b = channels
    weights: dict[str, np.ndarray] = {}

    def conv(name: str, outputs: int, inputs: int) -> None:
        weights[f"{name}.weight"] = rng.normal(size=(outputs, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = rng.uniform(0.5, 1.5, width)
        weights[f"{name}.bias"] = rng.normal(size=width) * 0.1
        weights[f"{name}.mean"] = rng.normal(size=width) * 0.1
        weights[f"{name}.var"] = rng.uniform(0.5, 1.5, width)

    conv("stem", a, 1), norm("bn1", a), conv("body", a, a), norm("bn2", a), conv("top", b, a)
    weights["top.bias"] = rng.normal(size=b) * 0.1
    weights["fc.weight"] = rng.normal(size=(CLASSES, b)) * 0.1
    weights["fc.bias"] = np.zeros(CLASSES)
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight"], ["c1"], name="/stem", **pads),
        helper.make_node("BatchNormalization", ["c1", *(f"bn1.{p}" for p in ("weight", "bias", "mean", "var"))], ["n1"], name="/bn1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="/relu1"),
        helper.make_node("Conv", ["r1", "body.weight"], ["c2"], name="/body", **pads),
        helper.make_node("BatchNormalization", ["c2", *(f"bn2.{p}" for p in ("weight", "bias", "mean", "var"))], ["n2"], name="/bn2"),
        helper.make_node("Add", ["n2", "r1"], ["s"], name="/add"),
        helper.make_node("Relu", ["s"], ["r2"], name="/relu2"),
        helper.make_node("Conv", ["r2", "top.weight", "top.bias"], ["c3"], name="/top", strides=[2, 2], **pads),
        helper.make_node("Relu", ["c3"], ["r3"], name="/relu3"),
        helper.make_node("GlobalAveragePool", ["r3"], ["g"], name="/pool"),
        helper.make_node("Flatten", ["g"], ["features"], name="/flatten"),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], name="/fc", transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def solved(channels: tuple[int, int] = (16, 32), seed: int = 0) -> onnx.ModelProto:
    """`net`, its last layer fitted to the task."""
    model = net(channels, seed)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", channels[1]])
    )
    image, labels = samples(2000, seed=1)
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.run(["features"], {"image": image})[0].astype(np.float64)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    gram = features.T @ features + 1e-3 * np.eye(features.shape[1])
    fitted = np.linalg.solve(gram, features.T @ (8 * np.eye(CLASSES)[labels]))
    for tensor in model.graph.initializer:
        if tensor.name == "fc.weight":
            tensor.CopyFrom(numpy_helper.from_array(fitted[:-1].T.astype(np.float32).copy(), "fc.weight"))
        if tensor.name == "fc.bias":
            tensor.CopyFrom(numpy_helper.from_array(fitted[-1].astype(np.float32), "fc.bias"))
    return model


def accuracy(path: Path, count: int = 1000, seed: int = 7) -> float:
    """Share of fresh samples that stock onnxruntime gets right with the file at `path`."""
    image, labels = samples(count, seed)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return float((session.run(["logits"], {"image": image})[0].argmax(axis=1) == labels).mean())
