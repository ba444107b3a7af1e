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
    assert refit_sums(short, whole, gaps, from_arrays(feeds)).layers == names
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
    assert refit_sums(short, whole, gaps, data(whole, 256, 1)).layers
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
    assert len(branches(short, whole, ["x"])[0]) == 1
    fitted = refit_sums(short, whole, ["x"], from_arrays({"a": a}))
    assert (fitted.layers, [one["name"] for one in fitted.skipped]) == ([], ["s"])
    assert "no fit was better on samples that it was not made on" in fitted.skipped[0]["reason"]
    assert graph.to_bytes(short) == before


@pytest.mark.parametrize("layer", ["d = Gemm(z, w, c)", "m = MatMul(z, w) d = Add(m, c)"])
def test_a_bias_is_fitted_too(layer: str) -> None:
    """The whole net adds 1 to what the short one gives: only a bias can say so."""
    short, whole = pair(layer, "y = Add(s, one)")
    a = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    (name,) = [node.name for node in short.graph if "w" in [value.name for value in node.inputs]]
    assert refit_sums(short, whole, ["x"], from_arrays({"a": a})).layers == [name]
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


TEXT = '<ir_version: 10, opset_import: ["" : 18]> f ({inputs}) => ({outputs}) <{weights}> {{ {body} }}'


def parsed(inputs: str, body: str, *, outputs: str = "float[n, t, 3] y", weights: str = "") -> ir.Model:
    """Every node named after what it makes; w and v are random 3 x 3 matrices."""
    model = ir.from_proto(
        onnx.parser.parse_model(TEXT.format(inputs=inputs, outputs=outputs, body=body, weights=weights))
    )
    rng = np.random.default_rng(4)
    for name in ("w", "v", "u"):
        array = rng.normal(size=(3, 3)).astype(np.float32)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape))
        value.dtype = ir.DataType.FLOAT
        model.graph.register_initializer(value)
        for node in model.graph:
            for place, read in enumerate(node.inputs):
                if read is not None and read.name == name and read is not value:
                    node.replace_input_with(place, value)
    for node in model.graph:
        node.name = f"make_{node.outputs[0].name}"
    return model


STEP = "x = Relu(a) r = MatMul(x, w) d = MatMul(r, v) s = Add(x, d) y = Mul(s, s)"
MORE = "x = Relu(a) b = MatMul(x, u) x2 = Add(x, b) r = MatMul(x2, w) d = MatMul(r, v) s = Add(x2, d) y = Mul(s, s)"


def test_the_batch_may_be_any_axis() -> None:
    """[tokens, samples, width], as torch without `batch_first`: samples of even and odd number are apart still."""
    turned = {
        name: f"e = Transpose<perm=[1, 0, 2]>(given) {body.replace('Relu(a)', 'Relu(e)')}"
        for name, body in (("short", STEP), ("whole", MORE))
    }
    feeds = {"given": np.random.default_rng(0).normal(size=(40, 5, 3)).astype(np.float32)}
    got = []
    for bodies, data in (
        (turned, feeds),
        ({"short": STEP, "whole": MORE}, {"a": feeds["given"]}),
    ):
        name = next(iter(data))
        short, whole = (
            parsed(f"float[n, t, 3] {name}", bodies[which], outputs="float[p, q, 3] y")
            for which in ("short", "whole")
        )
        assert refit_sums(short, whole, ["x"], from_arrays(data)).layers == ["make_d"]
        got.append(short.graph.initializers["v"].const_value.numpy())
    np.testing.assert_allclose(got[0], got[1], rtol=1e-4, atol=1e-5)  # sums in another order
    assert (
        np.abs(got[0] - parsed("float[n, t, 3] a", STEP).graph.initializers["v"].const_value.numpy()).max()
        > 0.1
    )


def test_padding_does_not_count() -> None:
    """What the whole net gives in padding is of another kind; numpy's fit is on the real tokens alone."""
    masked = "float[n, t, 3] a, int64[n, t] ids, int64[n, t] mask"
    # the output hides padding; the ids add a hundred times themselves inside
    head = "c = Cast<to=1>(mask) k = Unsqueeze(c, last) i = Cast<to=1>(ids) j = Unsqueeze(i, last) a2 = Add(a, j)"
    tail = "q = Mul(s, k) y = ReduceSum<keepdims=0>(q, tokens)"
    short, whole = (
        parsed(
            masked,
            f"{head} {body.replace('Relu(a)', 'Relu(a2)').split(' y = ')[0]} {tail}",
            outputs="float[n, 3] y",
            weights="int64[1] last = {2}, int64[1] tokens = {1}",
        )
        for body in (STEP, MORE)
    )
    rng = np.random.default_rng(0)
    mask = (np.arange(5) < rng.integers(2, 6, 60)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, rng.integers(0, 3, (60, 5)), 50)
    feeds = {"a": rng.normal(size=(60, 5, 3)).astype(np.float32), "ids": ids, "mask": mask}
    start = short.graph.initializers["v"].const_value.numpy().astype(float)
    assert refit_sums(short, whole, ["x"], from_arrays(feeds)).layers == ["make_d"]
    read, stream = values(short, feeds, "r", "x")
    wanted = values(whole, feeds, "s")[0] - stream
    real = mask == 1
    even = np.arange(60) % 2 == 0
    x, y = ([array[real & part[:, None]].astype(float) for part in (even, ~even)] for array in (read, wanted))
    errors = [np.square(x[1] @ ridge(x[0], y[0], start, r) - y[1]).sum() for r in RIDGES]
    best = ridge(np.concatenate(x), np.concatenate(y), start, RIDGES[int(np.argmin(errors))])
    np.testing.assert_allclose(short.graph.initializers["v"].const_value.numpy(), best, rtol=1e-3, atol=1e-4)


def test_what_is_left_alone_is_told_with_the_reason() -> None:
    shared = STEP.replace("s = Add(x, d)", "s = Add(x, d) z = MatMul(x, v)")
    spread = STEP.replace("r = MatMul(x, w)", "o = ReduceMean(x, tokens) r = MatMul(o, w)")
    seen = STEP.replace("s = Add(x, d)", "g = Relu(d) s = Add(x, g)")
    for body, outputs, reason in (
        (shared, "float[n, t, 3] y, float[n, t, 3] z", "a shared weight or another reader"),
        (STEP, "float[n, t, 3] y, float[n, t, 3] d", "another reader is in between"),
        (spread, "float[n, t, 3] y", "a stream of another shape"),
        (seen, "float[n, t, 3] y", "no layer of its own ends a branch"),
    ):
        short = parsed("float[n, t, 3] a", body, outputs=outputs, weights="int64[1] tokens = {1}")
        before = graph.to_bytes(short)
        whole = parsed("float[n, t, 3] a", MORE)
        feeds = {"a": np.random.default_rng(0).normal(size=(8, 5, 3)).astype(np.float32)}
        fitted = refit_sums(short, whole, ["x"], from_arrays(feeds))
        assert fitted.layers == []
        assert [(one["name"], reason in one["reason"]) for one in fitted.skipped] == [("s", True)]
        assert graph.to_bytes(short) == before


def test_a_vector_behind_a_convolution_is_no_bias_of_its_channels() -> None:
    """It is added along the width, which has as many places as there are channels."""
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> f (float[n, 3, 3, 3] a) => (float[n, 3, 3, 3] y)'
        " <float[3] c = {1, 2, 3}> { x = Relu(a) m = Conv(x, k) d = Add(m, c) s = Add(x, d) y = Relu(s) }"
    )
    proto = onnx.parser.parse_model(text)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "k"))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = f"make_{node.outputs[0].name}"
    assert branches(model, model, ["x"])[0] == []
    assert [one["name"] for one in branches(model, model, ["x"])[1]] == ["s"]


def test_too_few_samples_for_two_halves() -> None:
    short, whole = parsed("float[n, t, 3] a", STEP), parsed("float[n, t, 3] a", MORE)
    feeds = {"a": np.ones((1, 5, 3), np.float32)}
    fitted = refit_sums(short, whole, ["x"], from_arrays(feeds))
    assert (fitted.layers, fitted.skipped[0]["reason"]) == ([], "not fitted: too few samples")
