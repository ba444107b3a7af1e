"""Training through the executor is training the torch module: outputs, gradients, running statistics."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from mlcompress.train.executor import Executor
from tests.train.ops.oracle import normal


class Net(nn.Module):
    """A convolution, a depthwise one, a residual, a linear head; two momenta."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=1e-3, momentum=0.25)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.relu6(self.bn2(self.conv2(x)) + x)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


TEXT = """<ir_version: 10, opset_import: ["" : 18]> net (float[n, 3, 8, 8] x) => (float[n, 5] y)
<float low = {0}, float high = {6}, int64[2] axes = {2, 3}>
{ c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, conv1_weight)
  b1 = BatchNormalization (c1, bn1_weight, bn1_bias, bn1_running_mean, bn1_running_var)
  r1 = Relu (b1)
  c2 = Conv <pads = [1, 1, 1, 1], group = 8> (r1, conv2_weight)
  b2 = BatchNormalization <epsilon = 0.001, momentum = 0.75>
       (c2, bn2_weight, bn2_bias, bn2_running_mean, bn2_running_var)
  s = Add (b2, r1)
  r2 = Clip (s, low, high)
  p = ReduceMean <keepdims = 0> (r2, axes)
  y = Gemm <transB = 1> (p, fc_weight, fc_bias) }"""


@pytest.fixture
def pair() -> tuple[Net, Executor]:
    torch.manual_seed(0)
    module = Net()
    proto = onnx.parser.parse_model(TEXT)
    for name, tensor in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            proto.graph.initializer.append(
                onnx.numpy_helper.from_array(tensor.numpy(), name.replace(".", "_"))
            )
    return module, Executor(ir.from_proto(proto))


def test_three_steps_are_the_same(pair: tuple[Net, Executor]) -> None:
    """The same torch functions in the same order on the same numbers: equal to 1e-6, mostly to the bit."""
    module, executor = pair
    sides: list[nn.Module] = [module.train(), executor.train()]
    optimizers = [torch.optim.SGD(side.parameters(), lr=0.05, momentum=0.9) for side in sides]
    for step in range(3):
        x = torch.from_numpy(normal(6, 3, 8, 8, seed=step))
        outputs = [module(x), executor({"x": x})["y"]]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-6, atol=1e-6)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.square().mean().backward()
        for name, parameter in module.named_parameters():
            mine = executor.trainable[name.replace(".", "_")]
            torch.testing.assert_close(mine.grad, parameter.grad, rtol=1e-6, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
    for name, buffer in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert not torch.equal(buffer, torch.zeros_like(buffer))  # they did move
            torch.testing.assert_close(
                executor.statistics[name.replace(".", "_")], buffer, rtol=1e-6, atol=1e-6
            )


def test_eval_mode_leaves_statistics_alone(pair: tuple[Net, Executor]) -> None:
    module, executor = pair
    before = {name: tensor.clone() for name, tensor in executor.statistics.items()}
    x = torch.from_numpy(normal(6, 3, 8, 8))
    torch.testing.assert_close(executor.eval()({"x": x})["y"], module.eval()(x), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in executor.statistics.items())


def test_dropout_drops_in_training_mode_only() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[n] x) => (float[n] y)
    <float ratio = {0.25}> { y = Dropout (x, ratio) }"""
    executor = Executor(ir.from_proto(onnx.parser.parse_model(text)))
    x = torch.ones(10_000)
    assert torch.equal(executor.eval()({"x": x})["y"], x)
    torch.manual_seed(0)
    y = executor.train()({"x": x})["y"]
    assert set(y.tolist()) == {0.0, np.float32(1 / 0.75).item()}
    # 10,000 draws: standard deviation of the share is 0.0043
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_half_precision_weights_are_trained_in_single() -> None:
    """Adam in float16 divides by 0 where a gradient is 0; and steps below half a unit would all be lost."""
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float16[n, 2] x) => (float16[n, 2] y)
        { y = MatMul (x, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.float16), "w"))
    model = ir.serde.deserialize_model(proto)
    executor = Executor(model)
    adam = torch.optim.Adam(executor.parameters(), lr=1e-4)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float16)  # no gradient for the second row
    for _ in range(10):
        adam.zero_grad()
        executor({"x": x})["y"].float().sum().backward()
        adam.step()
    executor.write_back()
    got = model.graph.initializers["w"].const_value.numpy()
    assert got.dtype == np.float16
    # ten steps of 1e-4 from 1, where float16 has a unit of 4.9e-4 below 1
    np.testing.assert_allclose(got, [[0.999, 0.999], [1, 1]], rtol=0, atol=3e-4)
