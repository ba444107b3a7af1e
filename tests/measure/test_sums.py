"""Layers that were left out: least squares against numpy's own, and what comes back of real answers."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.graph.dependency.layers import drop, layers
from mlcompress.measure.sums import RIDGES, branches, refit_sums
from tests.graph.dependency.test_layers import post_norm, pre_norm, resnet

Build = Callable[[Sequence[int]], ir.Model]


def samples(count: int, seed: int, model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    kept = np.arange(5) < rng.integers(2, 6, count)[:, None]
    feeds = {
        "ids": rng.integers(0, 20, (count, 5)),
        "mask": np.where(kept, 0, -1e4).astype(np.float32)[:, None, None],
        "image": rng.normal(size=(count, 3, 8, 8)).astype(np.float32),
    }
    return {value.name: feeds[value.name] for value in model.graph.inputs}


def values(model: ir.Model, feeds: dict[str, np.ndarray], *names: str) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(list(names), feeds)
    return found


def shortened(build: Build, dead: Sequence[int]) -> tuple[ir.Model, ir.Model, list[str]]:
    """The whole net, the one without the layers `dead`, and where they are missing."""
    whole = build(range(4))
    short = graph.copy(whole)
    gone = [layers(whole)[n] for n in dead]
    drop(short, gone)
    return whole, short, [layer.entry for layer in gone]


def data(model: ir.Model, count: int, seed: int) -> Dataset:
    return from_arrays(samples(count, seed, model))


def ridge(x: np.ndarray, y: np.ndarray, start: np.ndarray, r: float) -> np.ndarray:
    """The W of least |x W - y|^2 + r h |W - start|^2, as plain least squares with rows for the penalty."""
    root = np.sqrt(r * np.square(x).sum(0).mean())
    more = np.concatenate([x, root * np.eye(x.shape[1])])
    found: np.ndarray = np.linalg.lstsq(more, np.concatenate([y, root * start]), rcond=None)[0]
    return found


def test_one_layer_gets_the_weights_that_numpy_finds() -> None:
    """The last layer of x + f(x), a matrix without a bias; the ridge is the best one for every other sample."""
    whole, short, gaps = shortened(pre_norm, [2])
    start = short.graph.initializers["w2_3"].const_value.numpy().astype(float)
    names = [node.name for node in short.graph if node.outputs[0].name in ("o3", "d3")]
    feeds = samples(512, 0, whole)
    assert refit_sums(short, whole, gaps, from_arrays(feeds)) == names
    read, stream = values(short, feeds, "r3", "u3")
    x, y = read.astype(float), (values(whole, feeds, "x3")[0] - stream).astype(float)
    even, odd = ((x[half::2].reshape(-1, 8), y[half::2].reshape(-1, 8)) for half in (0, 1))
    errors = [np.square(odd[0] @ ridge(*even, start, r) - odd[1]).sum() for r in RIDGES]
    best = RIDGES[int(np.argmin(errors))]
    wanted = ridge(x.reshape(-1, 8), y.reshape(-1, 8), start, best)
    # Normal equations in float64, then a float32 weight: 6 digits of it.
    np.testing.assert_allclose(short.graph.initializers["w2_3"].const_value.numpy(), wanted, atol=1e-4)
    assert np.abs(wanted - start).max() > 0.1


@pytest.mark.parametrize("build", [post_norm, pre_norm, resnet])
@pytest.mark.parametrize("dead", [[1], [0, 2]])
def test_new_samples_get_answers_nearer_to_the_whole_net(build: Build, dead: list[int]) -> None:
    whole, short, gaps = shortened(build, dead)
    feeds = samples(300, 9, whole)
    plain = values(short, feeds, "y")[0]
    assert refit_sums(short, whole, gaps, data(whole, 256, 1))
    wanted = values(whole, feeds, "y")[0]
    assert np.square(values(short, feeds, "y")[0] - wanted).sum() < 0.7 * np.square(plain - wanted).sum()


def test_layers_before_the_gap_stay_as_they_are() -> None:
    whole, short, gaps = shortened(post_norm, [2])
    before = {name: value.const_value.numpy().copy() for name, value in short.graph.initializers.items()}
    refit_sums(short, whole, gaps, data(whole, 64, 1))
    changed = {
        name
        for name, value in short.graph.initializers.items()
        if not np.array_equal(value.const_value.numpy(), before[name])
    }
    assert changed
    assert changed <= {"o_3", "w2_3"}


def test_nothing_is_fitted_that_does_not_help_on_other_samples() -> None:
    """What the whole net adds is 1 in even samples and -1 in odd ones, and the layer cannot tell them apart."""
    short, whole = pair("d = MatMul(z, w)", "y = Add(s, third)")
    before = graph.to_bytes(short)
    a = np.tile(np.float32([[1, 0, 1], [1, 0, -1]]), (8, 1))
    assert len(branches(short, whole, ["x"])) == 1
    assert refit_sums(short, whole, ["x"], from_arrays({"a": a})) == []
    assert graph.to_bytes(short) == before


@pytest.mark.parametrize("layer", ["d = Gemm(z, w, c)", "m = MatMul(z, w) d = Add(m, c)"])
def test_a_bias_is_fitted_too(layer: str) -> None:
    """The whole net adds 1 to what the short one gives: only a bias can say so."""
    short, whole = pair(layer, "y = Add(s, one)")
    a = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    (name,) = [node.name for node in short.graph if "w" in [value.name for value in node.inputs]]
    assert refit_sums(short, whole, ["x"], from_arrays({"a": a})) == [name]
    np.testing.assert_allclose(short.graph.initializers["c"].const_value.numpy(), [1, 1], atol=1e-3)


def pair(layer: str, end: str) -> tuple[ir.Model, ir.Model]:
    """s = x + layer(x), and the same where `end` comes on top under that name."""
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> f (float[n, 3] a) => (float[n, 2] y)'
        " <float[2, 2] w = {1, 0, 0, 1}, float[2] c = {0, 0}, float one = {1},"
        " float[3, 2] first = {1, 0, 0, 1, 0, 0}, float[3, 2] last = {0, 0, 0, 0, 1, 1}, float[2, 2] e = {1, 0, 0, 1}>"
        f" {{ third = MatMul(a, last) x = MatMul(a, first) z = Relu(x) {layer} s = Add(x, d) y = Identity(s) }}"
    )
    short, whole = (
        ir.from_proto(onnx.parser.parse_model(one)) for one in (text, text.replace("y = Identity(s)", end))
    )
    total, ending = whole.graph[-2], whole.graph[-1]
    total.outputs[0].name, ending.outputs[0].name = "less", "s"
    for number, node in enumerate(short.graph):
        node.name = f"n{number}"
    return short, whole
