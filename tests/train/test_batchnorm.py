"""Running statistics after a change of weights."""

import numpy as np
import onnx
import onnx_ir as ir
import torch

from mlcompress.data.dataset import from_arrays
from mlcompress.train.batchnorm import reestimate_bn
from mlcompress.train.executor import Executor
from tests.train.nets import net, stripes, weights


def test_statistics_are_means_over_batches() -> None:
    model, data = net(), stripes(80)
    assert reestimate_bn(model, data, batch_size=32) == 1
    convolved = [
        torch.nn.functional.conv2d(
            torch.from_numpy(data.take(ids).inputs["image"]),
            torch.from_numpy(weights(net())["w1"]),
            padding=1,
        ).double()
        for ids in (np.arange(32), np.arange(32, 64))  # the ragged third batch is left out
    ]
    mean = sum(part.mean(dim=(0, 2, 3)) for part in convolved) / 2
    variance = sum(part.var(dim=(0, 2, 3), unbiased=True) for part in convolved) / 2
    after = weights(model)
    # the network computes in float32: 2 ** -24 of values near 1, summed
    np.testing.assert_allclose(after["m1"], mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["v1"], variance.numpy(), rtol=1e-5, atol=1e-6)
    assert after["m1"].dtype == np.float32


def test_weights_stay_and_outputs_become_normalised() -> None:
    model, data = net(), stripes(64)
    model.graph.initializers["w1"].const_value = ir.tensor(weights(net())["w1"] * 10 + 1, name="w1")
    before = weights(model)
    reestimate_bn(model, data, batch_size=64)
    after = weights(model)
    assert all(np.array_equal(before[name], after[name]) for name in before if name not in ("m1", "v1"))
    with torch.no_grad():
        inputs = {"image": torch.from_numpy(data.take(np.arange(64)).inputs["image"])}
        normal = Executor(model).eval()(inputs, ["n"])["n"]
    spread = normal.std(dim=(0, 2, 3))
    assert torch.allclose(spread, torch.ones(8), atol=1e-3)  # epsilon 1e-5 beside variances above 0.1
    assert torch.allclose(normal.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-4)


_TWO = """
<ir_version: 10, opset_import: ["" : 18]>
two (float[n, 8, 6, 6] x) => (float[n, 8, 6, 6] y)
{
    a = BatchNormalization (x, g1, b1, m1, v1)
    r = Relu (a)
    y = BatchNormalization (r, g1, b1, m2, v2)
}
"""


def test_a_later_layer_sees_what_the_earlier_one_will_send() -> None:
    proto = onnx.parser.parse_model(_TWO)
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    arrays = {"g1": ones, "b1": zeros, "m1": zeros, "v1": ones, "m2": zeros, "v2": ones}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    model = ir.from_proto(proto)
    x = np.random.default_rng(0).normal(5, 3, (64, 8, 6, 6)).astype(np.float32)
    assert reestimate_bn(model, from_arrays({"x": x}), batch_size=64) == 2
    # relu of a standard normal: mean 1 / sqrt(2 pi), variance 1/2 - 1 / (2 pi); 2304 draws per channel
    np.testing.assert_allclose(weights(model)["m2"], 1 / np.sqrt(2 * np.pi), atol=0.05)
    np.testing.assert_allclose(weights(model)["v2"], 0.5 - 1 / (2 * np.pi), atol=0.05)


def test_nothing_to_do_without_batch_normalisation_or_samples() -> None:
    assert reestimate_bn(net(), stripes(4).subset(np.arange(0))) == 0
