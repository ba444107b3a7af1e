"""The executor as a whole: names, taps, shared weights, dynamic axes, write-back, refusals."""

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from mlcompress.errors import ModelError
from mlcompress.train.executor import Executor
from tests.train.nets import net
from tests.train.ops.oracle import EPS, Array, normal, reference


def parse(text: str, arrays: dict[str, Array] | None = None) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in (arrays or {}).items())
    return ir.from_proto(proto)


def matches_onnxruntime(model: ir.Model, feed: dict[str, Array]) -> None:
    expected = reference(ir.to_proto(model), feed)
    executor = Executor(model).eval()
    got = executor({name: torch.from_numpy(array) for name, array in feed.items()})
    for value, wanted in zip(got.values(), expected, strict=True):
        assert value.detach().numpy().dtype == wanted.dtype
        np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=EPS, atol=EPS)


@pytest.mark.parametrize("batch", [1, 5])
def test_two_batch_sizes(batch: int) -> None:
    matches_onnxruntime(net(), {"image": normal(batch, 1, 6, 6)})


def test_parameters_and_statistics_have_the_names_of_their_initializers() -> None:
    executor = Executor(net())
    assert sorted(executor.trainable) == ["b1", "b2", "g1", "w1", "w2"]
    assert sorted(name for name, _ in executor.named_parameters()) == sorted(executor.trainable)
    assert sorted(executor.state_dict()) == ["b1", "b2", "g1", "m1", "v1", "w1", "w2"]
    assert sorted(executor.statistics) == ["m1", "v1"]


def test_names_that_torch_would_refuse() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[n, 2] x) => (float[n, 2] y)
    { a = MatMul (x, w0)  b = MatMul (a, w1)  c = MatMul (b, w2)  y = MatMul (c, w3) }"""
    names = ["a.b.weight", "a.b", "train", "/w..1"]  # the parser does not take them
    proto = onnx.parser.parse_model(text)
    for index, node in enumerate(proto.graph.node):
        node.input[1] = names[index]
    proto.graph.initializer.extend(
        numpy_helper.from_array(normal(2, 2, seed=i), n) for i, n in enumerate(names)
    )
    executor = Executor(ir.from_proto(proto))
    assert sorted(name for name, _ in executor.named_parameters()) == sorted(names)
    state = {name: tensor + 1 for name, tensor in executor.state_dict().items()}
    executor.load_state_dict(state, strict=True)
    assert executor.trainable["a.b"].detach().numpy() == pytest.approx(normal(2, 2, seed=1) + 1)
    assert executor.train().training


def test_taps_give_values_and_change_nothing() -> None:
    executor = Executor(net()).eval()
    inputs = {"image": torch.from_numpy(normal(2, 1, 6, 6))}
    plain = executor(inputs)
    tapped = executor(inputs, ["r", "image", "w1"])
    assert list(plain) == ["logits"]
    assert sorted(tapped) == ["image", "logits", "r", "w1"]
    assert torch.equal(plain["logits"], tapped["logits"])
    assert tapped["r"].shape == (2, 8, 6, 6)
    assert tapped["w1"] is executor.trainable["w1"]
    tapped["r"].sum().backward()
    assert executor.trainable["w1"].grad is not None


def test_a_tap_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"^model: no tensor named 'logit'; did you mean 'logits'\?$"):
        Executor(net())({"image": torch.zeros(1, 1, 6, 6)}, ["logit"])


TIED = """<ir_version: 10, opset_import: ["" : 18]> net (int64[n, t] tokens) => (float[n, t, 7] y)
{ e = Gather (table, tokens)  h = MatMul (e, mix)
  u = Transpose <perm = [1, 0]> (table)  y = MatMul (h, u) }"""


def test_tied_weights_are_one_parameter() -> None:
    """The gradient is the sum over both uses: finite differences of the loss, in double precision."""
    arrays = {"table": normal(7, 3).astype(np.float64), "mix": normal(3, 3, seed=1).astype(np.float64)}
    executor = Executor(parse(TIED.replace("float", "double"), arrays))
    assert sorted(executor.trainable) == ["mix", "table"]
    tokens = {"tokens": torch.tensor([[1, 4, -1]])}
    table = executor.trainable["table"]

    def loss() -> torch.Tensor:
        return executor(tokens)["y"].square().sum()

    loss().backward()
    assert table.grad is not None
    with torch.no_grad():
        for row, column in ((1, 0), (5, 2)):
            table[row, column] += 1e-5
            above = loss()
            table[row, column] -= 2e-5
            slope = (above - loss()) / 2e-5
            table[row, column] += 1e-5
            # central difference: error of order 1e-10 times the third derivative
            assert slope.item() == pytest.approx(table.grad[row, column].item(), rel=1e-6)


def test_write_back_round_trip() -> None:
    model = net()
    executor = Executor(model).train()
    optimizer = torch.optim.SGD(executor.parameters(), lr=0.1)
    image = torch.from_numpy(normal(16, 1, 6, 6))
    before = ir.to_proto(model).SerializeToString()
    for _ in range(3):
        optimizer.zero_grad()
        executor({"image": image})["logits"].square().sum().backward()
        optimizer.step()
    assert ir.to_proto(model).SerializeToString() == before
    executor.write_back()
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    assert after.SerializeToString() != before
    (wanted,) = reference(after, {"image": image.numpy()})
    got = executor.eval()({"image": image})["logits"].detach().numpy()
    np.testing.assert_allclose(got, wanted, rtol=EPS, atol=EPS)
    names = [tensor.name for tensor in after.graph.initializer]
    assert names == [tensor.name for tensor in ir.to_proto(net()).graph.initializer]


def test_write_back_of_constant_nodes_and_half_precision() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[n, 2] x) => (float16[n, 2] y)
    { w = Constant <value = float[2, 2] {1, 2, 3, 4}> ()  h = MatMul (x, w)  s = Cast <to = 10> (h)
      y = Add (s, b) }"""
    model = parse(text, {"b": np.zeros(2, np.float16)})
    executor = Executor(model)
    assert sorted(executor.trainable) == ["b", "w"]
    with torch.no_grad():
        executor.trainable["w"].mul_(2)
        executor.trainable["b"].add_(1)
    executor.write_back()
    (got,) = reference(ir.to_proto(model), {"x": np.eye(2, dtype=np.float32)})
    np.testing.assert_array_equal(got, np.array([[3, 5], [7, 9]], np.float16))


def test_what_is_a_weight() -> None:
    """Biases and tables are; masks, single numbers and integers are not."""
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[n, 3] x) => (float[n, 5] y)
    { a = Add (x, bias)  b = Add (a, mask)  c = Mul (b, factor)  d = Slice (table, zero, two, zero)
      e = MatMul (d, mix)  f = ReduceMean <keepdims = 0> (e, zero)  i = Gather (powers, zero)
      j = Mul (f, i)  g = Add (c, j)
      y = Concat <axis = 1> (g, filler) }"""
    arrays = {
        "bias": normal(3),
        "mask": np.array([0, -1e9, 0], np.float32),
        "factor": np.array([2.0], np.float32),
        "table": normal(4, 3),
        "mix": normal(3, 3),
        "powers": normal(8),
        "zero": np.array([0]),
        "two": np.array([2]),
        "filler": np.zeros((2, 2), np.float32),
    }
    assert sorted(Executor(parse(text, arrays)).trainable) == ["bias", "mix", "table"]


SHAPES = """<ir_version: 10, opset_import: ["" : 18]>
net (float[n, t, 6] x) => (float[n, 2, t, 3] y, int64[k] z, int64 below)
{ s = Shape (x)  n = Gather (s, zero)  t = Gather <axis = 0> (s, one)  n1 = Unsqueeze (n, zero1)
  t1 = Reshape (t, minus)  shape = Concat <axis = 0> (n1, t1, two, three)  r = Reshape (x, shape)
  y0 = Transpose <perm = [0, 2, 1, 3]> (r)  half = Div (t, two0)  i = Cast <to = 7> (half)
  big = Less (i, t)  end = Where (big, t, i)  w = Mul (end, one)  z = Range (zero, w, one)
  e = Shape (y0)  o = ConstantOfShape (e)  y = Sub (y0, o)  less = Sub (one, t)  below = Div (less, two0) }"""


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 7, 6)])
def test_shape_arithmetic_stays_dynamic(shape: tuple[int, ...]) -> None:
    numbers = {"zero": 0, "one": 1, "two0": 2}
    lists = {"zero1": [0], "minus": [-1], "two": [2], "three": [3]}
    arrays = {name: np.array(value, np.int64) for name, value in {**numbers, **lists}.items()}
    model = parse(SHAPES, arrays)
    matches_onnxruntime(model, {"x": normal(*shape)})
    tapped = Executor(model)({"x": torch.zeros(shape)}, ["shape", "t", "big"])
    assert tapped["shape"].tolist() == [shape[0], shape[1], 2, 3]
    assert tapped["t"].item() == shape[1]
    assert tapped["big"].item() is True


def test_reading_axes_from_a_tensor_of_the_data() -> None:
    """A shape that is itself an input of the graph."""
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[6] x, int64[2] s) => (float[a, b] y)
    { y = Reshape (x, s) }"""
    matches_onnxruntime(parse(text), {"x": normal(6), "s": np.array([3, -1])})


def test_values_are_forgotten_after_their_last_use() -> None:
    """Each intermediate value and the input once; the output never."""
    plan = Executor(net())._plan(frozenset())
    freed = [name for step in plan.steps for name in step.frees]
    assert sorted(freed) == sorted(["image", *(step.write for step in plan.steps if step.write != "logits")])


def test_copies_are_independent() -> None:
    executor = Executor(net())
    twin = copy.deepcopy(executor)
    with torch.no_grad():
        twin.trainable["w1"].zero_()
    image = {"image": torch.from_numpy(normal(2, 1, 6, 6))}
    assert not torch.equal(executor(image)["logits"], twin(image)["logits"])
    assert executor.trainable["w1"].abs().sum() > 0


def test_inputs_of_a_wrong_shape_name_the_node() -> None:
    with pytest.raises(ModelError, match=r"^model: node conv: .*; do the inputs have the shapes it wants\?$"):
        Executor(net())({"image": torch.zeros(1, 1, 6)})
