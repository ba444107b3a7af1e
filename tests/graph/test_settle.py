"""Computed lengths become constants, and the graph computes the same."""

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.graph import dependency
from mlcompress.graph.settle import settle
from tests.graph.dependency.oracle import HEAD, inputs, net, run


def settled(model: ir.Model) -> ir.Model:
    """A settled copy whose outputs are bit-equal at two batch sizes."""
    other = graph.copy(model)
    settle(other)
    for batch in (1, 3):
        feeds = inputs(model, batch)
        for one, two in zip(run(model, feeds), run(other, feeds), strict=True):
            np.testing.assert_array_equal(one, two)
    return other


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def target(model: ir.Model, op: str) -> list[int]:
    (node,) = [node for node in model.graph if node.op_type == op]
    return node.inputs[1].const_value.numpy().tolist()


def test_a_computed_batch_becomes_a_copied_axis() -> None:
    text = (
        HEAD
        + """(float[N,6,4] x) => (float[N,2,12] y) {
      s = Shape(x)
      n = Gather(s, first)
      b = Reshape(n, one)
      t = Concat<axis=0>(b, two, twelve)
      y = Reshape(x, t)
    }"""
    )
    constants = {"first": np.array(0), "one": np.array([-1]), "two": np.array([2]), "twelve": np.array([12])}
    model = settled(net(text, {}, **constants))
    assert ops(model) == ["Reshape"]
    assert target(model, "Reshape") == [0, 2, 12]


def test_a_whole_computed_shape_keeps_its_numbers() -> None:
    text = (
        HEAD
        + """(float[N,6,4] x) => (float[N,6,4] y) {
      a = Reshape(x, flat)
      r = Relu(a)
      s = Shape(x)
      y = Reshape(r, s)
    }"""
    )
    model = settled(net(text, {}, flat=np.array([0, -1])))
    assert ops(model) == ["Reshape", "Relu", "Reshape"]
    last = list(model.graph)[-1]
    assert last.inputs[1].const_value.numpy().tolist() == [0, 6, 4]


def test_two_dynamic_axes_stay_computed() -> None:
    text = (
        HEAD
        + """(float[N,T,4] x) => (float[T,N,4] y) {
      s = Shape(x)
      n = Gather(s, first)
      t = Gather(s, second)
      c = Concat<axis=0>(t, n, four)
      y = Reshape(x, c)
    }"""
    )
    constants = {"first": np.array([0]), "second": np.array([1]), "four": np.array([4])}
    model = net(text, {}, **constants)
    settle(model)
    assert "Concat" in ops(model)
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(run(model, {"x": x})[0], x.reshape(3, 2, 4))


def test_swapping_the_last_axes_by_three_nodes_becomes_one() -> None:
    text = (
        HEAD
        + """(float[N,2,3,4] x) => (float[N,2,4,3] y) {
      r = Relu(x)
      a = Reshape(r, merged)
      b = Transpose<perm=[0,2,1]>(a)
      s = Shape<start=0, end=2>(r)
      t = Concat<axis=0>(s, four, three)
      c = Reshape(b, t)
      y = Neg(c)
    }"""
    )
    constants = {"merged": np.array([-1, 3, 4]), "four": np.array([4]), "three": np.array([3])}
    model = settled(net(text, {}, **constants))
    assert ops(model) == ["Relu", "Transpose", "Neg"]


def test_a_length_used_as_a_number_is_folded() -> None:
    text = (
        HEAD
        + """(float[N,3] x) => (float[N,4] y) {
      a = MatMul(x, w)
      s = Shape<start=1>(a)
      f = Cast<to=1>(s)
      q = Sqrt(f)
      b = Div(a, q)
      y = MatMul(b, v)
    }"""
    )
    model = settled(net(text, {"w": (3, 9), "v": (9, 4)}))
    assert ops(model) == ["MatMul", "Div", "MatMul"]
    assert [family.name for family in dependency.analyse(model).families] == ["w"]


def test_a_settled_graph_is_left_alone() -> None:
    model = net(HEAD + "(float[N,3] x) => (float[N,4] y) { a = MatMul(x, w)\n y = Relu(a) }", {"w": (3, 4)})
    before = graph.to_bytes(model)
    settle(model)
    assert graph.to_bytes(model) == before


def test_batch_and_heads_that_are_merged_stay_apart() -> None:
    """torch's attention module: (s, b, h*d) -> (s, b*h, d) -> (b*h, s, d) -> (b, h, s, d)."""
    text = (
        HEAD
        + """(float[5,N,12] x) => (float[N,3,5,4] y) {
      r = Relu(x)
      a = Reshape(r, merged)
      b = Transpose<perm=[1,0,2]>(a)
      c = Reshape(b, apart)
      y = Neg(c)
    }"""
    )
    model = net(text, {}, merged=np.array([5, -1, 4]), apart=np.array([-1, 3, 5, 4]))
    assert ops(model) == ["Relu", "Reshape", "Transpose", "Neg"]
    x = np.random.default_rng(0).standard_normal((5, 2, 12)).astype(np.float32)
    expected = -np.maximum(x, 0).reshape(5, 6, 4).transpose(1, 0, 2).reshape(2, 3, 5, 4)
    np.testing.assert_array_equal(run(model, {"x": x})[0], expected)


def test_lengths_are_named_through_sums_products_and_reshapes() -> None:
    text = (
        HEAD
        + """(float[N,6,4] x) => (float[N,6,4] y) {
      a = Add(x, one)
      s = Reshape(a, flat)
      b = Relu(s)
      u = Reshape(b, back)
      y = Add(u, x)
    }"""
    )
    model = net(text, {"one": (1, 6, 4)}, flat=np.array([-1, 4]), back=np.array([-1, 6, 4]))
    shapes = {value.name: str(value.shape) for node in model.graph for value in node.outputs}
    assert (shapes["a"], shapes["b"], shapes["u"]) == ("[N,6,4]", "[6*N,4]", "[N,6,4]")


def test_an_expand_that_is_computed_in_a_roundabout_way_reads_plain_lengths() -> None:
    """`expand(batch, -1, -1)` of a class token, as torch's older exporter writes it."""
    text = (
        HEAD
        + """(float[N,4] x) => (float[N,1,4] y) {
      s = Shape(x)
      n = Gather(s, zero)
      c = Concat<axis=0>(n, minus, minus)
      q = Equal(c, minuses)
      w = Where(q, ones, c)
      e = Expand(token, w)
      y = Neg(e)
    }"""
    )
    constants = {"zero": [0], "minus": [-1], "minuses": [-1, -1, -1], "ones": [1, 1, 1]}
    model = net(text, {"token": (1, 1, 4)}, **{name: np.array(v) for name, v in constants.items()})
    assert "Where" not in ops(model)
    assert run(model, {"x": np.zeros((3, 4), dtype=np.float32)})[0].shape == (3, 1, 4)
    assert model.graph.outputs[0].producer().inputs[0].shape == ("N", 1, 4)
