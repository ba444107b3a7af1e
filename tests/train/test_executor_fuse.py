"""Peepholes: the fused graph gives the numbers of the plain one, and never hides a value that is tapped."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from mlcompress.train.executor import Executor
from tests.train.ops.oracle import EPS, Array, normal, reference

HEAD = '<ir_version: 10, opset_import: ["" : 18]> net '

LINEAR = HEAD + "(float[n, t, 4] x) => (float[n, t, 6] y) { h = MatMul (x, w)  y = Add (h, b) }"
TIED = (
    HEAD
    + """(float[n, t, 4] x) => (float[n, t, 6] y)
    { wt = Transpose <perm = [1, 0]> (v)  h = MatMul (x, wt)  y = Add (b, h) }"""
)
GELU = (
    HEAD
    + """(float[n, t, 4] x) => (float[n, t, 4] y)
    { d = Div (x, root)  e = Erf (d)  o = Add (e, one)  m = Mul (x, o)  y = Mul (m, half) }"""
)
GELU_OTHER_ORDER = (
    HEAD
    + """(float[n, t, 4] x) => (float[n, t, 4] y)
    { d = Mul (x, inverse)  e = Erf (d)  o = Add (one, e)  m = Mul (half, x)  y = Mul (m, o) }"""
)
NORM = (
    HEAD
    + """(float[n, t, 4] x) => (float[n, t, 4] y)
    { m = ReduceMean (x, last)  d = Sub (x, m)  p = Pow (d, two)  u = ReduceMean (p, last)  a = Add (u, eps)
      s = Sqrt (a)  q = Div (d, s)  g = Mul (q, scale)  y = Add (g, bias) }"""
)
ATTENTION = (
    HEAD
    + """(float[n, 2, t, 4] q, float[n, 2, t, 4] k, float[n, 2, t, 4] v, float[n, 1, 1, t] mask)
    => (float[n, 2, t, 4] y)
    { kt = Transpose <perm = [0, 1, 3, 2]> (k)  s = MatMul (q, kt)  d = Div (s, two)  a = Add (d, mask)
      p = Softmax <axis = -1> (a)  y = MatMul (p, v) }"""
)
SPLIT_SCALE = (
    HEAD
    + """(float[n, 2, t, 4] q, float[n, 2, t, 4] k, float[n, 2, t, 4] v) => (float[n, 2, t, 4] y)
    { kt = Transpose <perm = [0, 1, 3, 2]> (k)  qs = Mul (q, half)  ks = Mul (kt, two)  s = MatMul (qs, ks)
      p = Softmax <axis = -1> (s)  y = MatMul (p, v) }"""
)

ARRAYS: dict[str, Array] = {
    "w": normal(4, 6, seed=1),
    "v": normal(6, 4, seed=1),
    "b": normal(6, seed=2),
    "scale": normal(4, seed=3),
    "bias": normal(4, seed=4),
    "last": np.array([-1]),
    **{
        name: np.array(value, np.float32)
        for name, value in {
            "root": 2**0.5,
            "inverse": 0.5**0.5,
            "one": 1,
            "half": 0.5,
            "two": 2,
            "eps": 1e-3,
        }.items()
    },
}

CASES = {
    "linear": (LINEAR, "fused.Linear", 1, "h"),
    "tied linear": (TIED, "fused.Linear", 2, "h"),
    "gelu": (GELU, "fused.Gelu", 1, "e"),
    "gelu in another order": (GELU_OTHER_ORDER, "fused.Gelu", 1, "m"),
    "layer norm": (NORM, "fused.LayerNormalization", 1, "d"),
    "attention": (ATTENTION, "fused.Attention", 2, "p"),
    "attention with a divided scale": (SPLIT_SCALE, "fused.Attention", 2, "s"),
}
"""text, what it becomes, steps when fused, a value that fusing hides"""


def build(text: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    inputs = {value.name for value in proto.graph.input}
    names = sorted(used & ARRAYS.keys() - inputs)
    proto.graph.initializer.extend(numpy_helper.from_array(ARRAYS[name], name) for name in names)
    return proto


def feed_for(proto: onnx.ModelProto) -> dict[str, Array]:
    sizes = {"n": 2, "t": 5}
    feed = {}
    for index, value in enumerate(proto.graph.input):
        shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
        feed[value.name] = normal(*shape, seed=index + 5)
    if "mask" in feed:
        feed["mask"] = np.where(feed["mask"] > 0, 0, -1e4).astype(np.float32)
        feed["mask"][..., 0] = 0  # scores near -1e4 have no digits left to compare
    return feed


@pytest.mark.parametrize("case", CASES)
def test_fused_equals_plain(case: str) -> None:
    text, _, steps, hidden = CASES[case]
    proto = build(text)
    feed = feed_for(proto)
    (wanted,) = reference(proto, feed)
    executor = Executor(ir.from_proto(proto))
    assert len(executor._plan(frozenset()).steps) == steps
    assert len(executor._plan(frozenset([hidden])).steps) > steps
    gradients = []
    for taps in ([], [hidden]):
        tensors = {
            name: torch.from_numpy(array).requires_grad_() for name, array in feed.items() if name != "mask"
        }
        if "mask" in feed:
            tensors["mask"] = torch.from_numpy(feed["mask"])
        executor.zero_grad()
        results = executor(tensors, taps)
        assert set(taps) <= results.keys()
        np.testing.assert_allclose(results["y"].detach().numpy(), wanted, rtol=EPS, atol=EPS)
        for name in taps:  # not a second computation beside the one that the output comes from
            assert torch.autograd.grad(results["y"].sum(), results[name], retain_graph=True)[0] is not None
        results["y"].square().sum().backward()
        everything = [*tensors.values(), *executor.parameters()]
        gradients.append([tensor.grad for tensor in everything if tensor.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for fused, plain in zip(*gradients, strict=True):
        # sums of up to 60 products of numbers around 1, in another order
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LINEAR.replace("(float[n, t, 6] y)", "(float[n, t, 6] y, float[n, t, 6] h)"), "h is an output"),
        (LINEAR.replace("y = Add (h, b)", "r = Relu (h) z = Add (h, b) y = Add (z, r)"), "h is read twice"),
        (GELU.replace("(m, half)", "(m, two)"), "another factor"),
        (GELU.replace("(x, root)", "(x, two)"), "another scale"),
        (GELU.replace("Add (e, one)", "Add (e, two)"), "another term"),
        (NORM.replace("Sub (x, m)", "Sub (m, x)"), "another sign"),
        (NORM.replace("Div (d, s)", "Div (x, s)"), "not centred"),
        (ATTENTION.replace("axis = -1", "axis = 2"), "another axis"),
    ],
)
def test_what_only_looks_alike_is_left_alone(text: str, why: str) -> None:
    proto = build(text)
    feed = feed_for(proto)
    expected = reference(proto, feed)
    executor = Executor(ir.from_proto(proto)).eval()
    steps = executor._plan(frozenset()).steps
    assert len(steps) == len(proto.graph.node)
    assert not any(getattr(step.run, "__module__", "") == "mlcompress.train.fuse" for step in steps)
    got = executor({name: torch.from_numpy(array) for name, array in feed.items()})
    for value, wanted in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=EPS, atol=EPS, err_msg=why)
