"""A tiny net and a task it can learn in a second, shared by the tests of training."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.train.objective import Objective

_TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[batch, 1, 6, 6] image) => (float[batch, {classes}] {output})
{{
    [conv] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1)
    [norm] n = BatchNormalization (c, g1, b1, m1, v1)
    [act] r = Relu (n)
    [pool] p = ReduceMean <keepdims = 0> (r, axes)
    {dropout}
    [fc] logits = Gemm <transB = 1> ({last}, w2, b2)
    {softmax}
}}
"""


def net(seed: int = 0, *, softmax: bool = False, classes: int = 3, dropout: bool = False) -> ir.Model:
    """Conv - BatchNormalization - Relu - mean - Gemm: `logits` or `probabilities` [batch, classes]."""
    last = "[sm] probabilities = Softmax <axis = -1> (logits)" if softmax else ""
    output = "probabilities" if softmax else "logits"
    middle = {"dropout": "[drop] d = Dropout (p, ratio)" if dropout else "", "last": "d" if dropout else "p"}
    proto = onnx.parser.parse_model(_TEXT.format(classes=classes, output=output, softmax=last, **middle))
    rng = np.random.default_rng(seed)
    arrays = {
        "w1": rng.normal(0, 0.5, (8, 1, 3, 3)),
        "g1": np.ones(8),
        "b1": np.zeros(8),
        "m1": np.zeros(8),
        "v1": np.ones(8),
        "w2": rng.normal(0, 0.5, (classes, 8)),
        "b2": np.zeros(classes),
    }
    tensors = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    if dropout:
        tensors.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
    proto.graph.initializer.extend(tensors)
    return ir.from_proto(proto)


def stripes(count: int = 192, seed: int = 0, *, labels: bool = True) -> Dataset:
    """Noisy 6x6 images: horizontal stripes, vertical stripes, or plain; classes 0, 1, 2."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(count) % 3
    images = rng.normal(0, 0.3, (count, 1, 6, 6)).astype(np.float32)
    wave = np.tile([1.0, -1.0], 3).astype(np.float32)
    images[kinds == 0] += wave[:, None]
    images[kinds == 1] += wave[None, :]
    return from_arrays({"image": images}, kinds.astype(np.int64) if labels else None, name="data.train")


def weights(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    """Copies of all initializers, by name."""
    return {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}


def catch_parts(patch: pytest.MonkeyPatch, caught: list[Any]) -> None:
    """Have each `Objective` that is prepared append itself to `caught`, and what it trains for itself as it is then."""
    prepare = Objective.prepare

    def keep(self: Objective, *rest: Any, **more: Any) -> None:
        prepare(self, *rest, **more)
        caught.append((self, {name: value.clone() for name, value in self.parts.state_dict().items()}))

    patch.setattr(Objective, "prepare", keep)
