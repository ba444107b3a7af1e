"""Closed-form reconstruction: least squares against numpy's own, and what it gives back on a real net."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import DataError
from mlcompress.graph.dependency import analyse, remove
from mlcompress.measure.refit import lost, refit
from mlcompress.measure.trial_fit import TrialFit
from tests import task

RNG = np.random.default_rng(0)


def loaded(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    graph.clean(model)
    return model


def outputs(model: ir.Model, image: np.ndarray, name: str) -> np.ndarray:
    proto = ir.to_proto(model)
    if name not in [output.name for output in proto.graph.output]:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([name], {"image": image})[0]
    return found


def cut(model: ir.Model, family: str, units: np.ndarray) -> tuple[ir.Model, object]:
    """The pruned copy, and what its layers lost."""
    made = graph.copy(model)
    analysis = analyse(made)
    what = lost(made, analysis, {family: units})
    remove(made, analysis, {family: units})
    return made, what


def test_a_gemm_gets_the_least_squares_weights_that_numpy_finds() -> None:
    model, (image, _) = loaded(task.solved((16, 32))), task.samples(256, seed=4)
    pruned, what = cut(model, "top.weight", np.arange(0, 32, 2))
    assert list(what.readers) == ["/fc"]
    read = outputs(pruned, image, "features").astype(float)
    wanted = outputs(model, image, "logits").astype(float)
    assert refit(pruned, model, what, from_arrays({"image": image})) == ["/fc"]
    with_ones = np.concatenate([read, np.ones((256, 1))], axis=1)
    best = np.linalg.lstsq(with_ones, wanted, rcond=None)[0]
    residual = np.square(outputs(pruned, image, "logits") - wanted).sum()
    # The ridge keeps a little of the old weights: within 1 % of the least residual that there is.
    assert residual <= 1.01 * np.square(with_ones @ best - wanted).sum()


def test_convolutions_in_a_row_come_nearer_to_what_they_gave() -> None:
    model, (image, _) = loaded(task.solved((16, 32))), task.samples(256, seed=4)
    pruned, what = cut(model, "stem.weight", np.arange(4))
    bare = graph.copy(pruned)
    assert list(what.readers) == ["/body", "/top"]
    assert sorted(what.kept) == ["/body", "/stem"]
    refit(pruned, model, what, from_arrays({"image": image}))
    fresh, _ = task.samples(256, seed=5)  # not those that it was fitted on
    wanted = outputs(model, fresh, "logits")
    errors = [np.square(outputs(one, fresh, "logits") - wanted).sum() for one in (pruned, bare)]
    assert errors[0] < 0.5 * errors[1]


def test_trials_are_fitted_as_a_cut_of_one_family_will_be() -> None:
    """One reader, whose other inputs nothing changes: the moments of all its inputs tell the same."""
    model, (image, _) = loaded(task.solved((16, 32))), task.samples(256, seed=4)
    data = from_arrays({"image": image})
    fit = TrialFit(model, data)
    for units in (np.arange(0, 32, 2), np.arange(20)):
        pruned, what = cut(model, "top.weight", units)
        trial, bare = graph.copy(pruned), graph.copy(pruned)
        refit(pruned, model, what, data)
        fit(trial, what)
        fitted, found, unfitted = (outputs(one, image, "logits") for one in (pruned, trial, bare))
        assert found == pytest.approx(
            fitted, abs=1e-4 * float(np.abs(fitted).max())
        )  # of float32 activations
        assert np.abs(unfitted - fitted).max() > 0.01 * np.abs(fitted).max()


def test_trials_of_convolutions_come_nearer_to_what_they_gave() -> None:
    model, (image, _) = loaded(task.solved((16, 32))), task.samples(256, seed=4)
    pruned, what = cut(model, "stem.weight", np.arange(4))
    bare, wanted = graph.copy(pruned), outputs(model, image, "logits")
    TrialFit(model, from_arrays({"image": image}))(pruned, what)
    errors = [np.square(outputs(one, image, "logits") - wanted).sum() for one in (pruned, bare)]
    assert errors[0] < 0.7 * errors[1]


def test_nothing_lost_nothing_fitted() -> None:
    model = loaded(task.solved((16, 32)))
    before = graph.to_bytes(model)
    analysis = analyse(model)
    what = lost(model, analysis, {})
    assert not what.readers
    assert refit(model, graph.copy(model), what, from_arrays({"image": task.samples(8, seed=1)[0]})) == []
    assert graph.to_bytes(model) == before


def test_units_that_never_fire_cost_nothing() -> None:
    """A constant input leaves the moments singular: the weights stay finite, and as they were."""
    model, image = loaded(task.solved((16, 32))), np.zeros((32, 1, 8, 8), np.float32)
    pruned, what = cut(model, "top.weight", np.arange(8))
    refit(pruned, model, what, from_arrays({"image": image}))
    assert np.isfinite(outputs(pruned, task.samples(8, seed=2)[0], "logits")).all()
    assert outputs(pruned, image, "logits") == pytest.approx(outputs(model, image, "logits"), abs=1e-4)


def test_a_shared_weight_is_left_alone(inside: Path) -> None:
    """Two readers of one weight cannot both be suited."""
    shared = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 18]>
        net (float[N, 4] image) => (float[N, 4] logits)
        <float[8, 4] up, float[8, 4] down> {
            [up_] a = Gemm <transB: int = 1> (image, up)
            b = Relu(a)
            [one] c = MatMul(b, down)
            [two] d = MatMul(b, down)
            logits = Add(c, d)
        }""")
    for name in ("up", "down"):
        array = RNG.normal(size=(8, 4)).astype(np.float32)
        shared.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(shared)
    pruned, what = cut(model, "up", np.arange(2))
    data = from_arrays({"image": RNG.normal(size=(64, 4)).astype(np.float32)})
    assert set(what.readers) == {"one", "two"}
    assert refit(pruned, model, what, data) == []


@pytest.mark.parametrize(
    ("down", "bias", "fitted"),
    [
        ("Gemm (b, down, bias)", (1, 4), ["down"]),  # a control: this is W X + b
        ("Gemm (b, down, bias)", (1,), []),
        ("Gemm <alpha: float = 0.5> (b, down, bias)", (4,), []),
        ("Gemm <beta: float = 2.0> (b, down, bias)", (4,), []),
        ("Gemm (b, down, a4)", (4,), []),
    ],
)
def test_what_is_fitted_comes_nearer_and_a_gemm_that_adds_more_is_left_alone(
    down: str, bias: tuple[int, ...], fitted: list[str]
) -> None:
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        net (float[N, 4] image) => (float[N, 4] logits)
        <float[8, 4] up, float[8, 4] down, float{list(bias)} bias> {{
            [up] a = Gemm <transB: int = 1> (image, up)
            [relu] b = Relu(a)
            [four] a4 = Add(image, image)
            [down] logits = {down}
        }}""")
    rng = np.random.default_rng(0)
    for name, shape in (("up", (8, 4)), ("down", (8, 4)), ("bias", bias)):
        array = rng.normal(size=shape) + (3 if name == "bias" else 0)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    model = loaded(proto)
    image = rng.normal(size=(64, 4)).astype(np.float32)
    pruned, what = cut(model, "up", np.arange(2))
    bare = graph.copy(pruned)
    assert refit(pruned, model, what, from_arrays({"image": image})) == fitted
    wanted = outputs(model, image, "logits")
    errors = [np.square(outputs(one, image, "logits") - wanted).sum() for one in (pruned, bare)]
    assert errors[0] < errors[1] if fitted else errors[0] == errors[1]


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [(3e38, (4, 1, 8, 8), "holds NaN or infinity"), (1.0, (4, 1, 8, 9), "cannot be run on these samples")],
)
def test_samples_that_nothing_can_be_fitted_on_are_refused(
    value: float, shape: tuple[int, ...], message: str
) -> None:
    model = loaded(task.solved((16, 32)))
    pruned, what = cut(model, "stem.weight", np.arange(4))
    with pytest.raises(DataError, match=message):
        refit(pruned, model, what, from_arrays({"image": np.full(shape, value, np.float32)}))
