"""What criteria are given, against numpy on what stock onnxruntime computes; and which recipes are refused."""

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import UnsupportedError
from mlcompress.graph.dependency import analyse
from mlcompress.prune import observed_channels, observed_elements
from mlcompress.prune.criteria import criteria, refusal
from mlcompress.prune.material import Material
from mlcompress.prune.run import run
from mlcompress.train.gradients import Movement
from tests import task
from tests.prune.direct import model, prune, recipe, samples, weights

DATA = samples(64)
FIRST = {"r1": ["batch", 16, 8, 8], "r3": ["batch", 32, 4, 4], "features": ["batch", 32]}
GRANULARITIES = ("channel", "element", "n:m", "kernel")


def values(*names: str, proto: onnx.ModelProto | None = None) -> list[np.ndarray]:
    """Tensors inside the net on all samples."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto or task.solved())
    for name in names:
        if name != "logits":
            probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, FIRST[name]))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(list(names), {"image": DATA.take(np.arange(64)).inputs["image"]})
    return found


def material(labels: bool = True, **section: Any) -> Material:
    return Material(model(), recipe(**section), Context(seed=0, train=samples(64, labels=labels)))


def element_fields(criterion: Any, labels: bool = True) -> tuple[dict[str, np.ndarray], Material]:
    given = material(labels, granularity="element", criterion=criterion, ratio=0.5)
    return observed_elements.measure(model(), ["fc.weight"], given)["fc.weight"], given


def fc_gradients(labels: np.ndarray) -> np.ndarray:
    """d cross-entropy / d fc.weight of each sample, [64, 4, 32], by its formula."""
    features, logits = (array.astype(np.float64) for array in values("features", "logits"))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return (shares - np.eye(4)[labels])[:, :, None] * features[:, None, :]


def test_gradients_are_those_of_the_cross_entropy() -> None:
    single = fc_gradients(np.asarray(DATA.labels))
    batches = single.reshape(2, 32, 4, 32).mean(axis=1)
    fields, given = element_fields("gradient")
    assert fields["gradients"] == pytest.approx(np.abs(batches).mean(axis=0), rel=1e-4, abs=1e-7)
    assert given.facts == {"data": "data.train", "samples": 64, "loss": "cross-entropy to the labels"}
    fields, _ = element_fields("fisher")  # sample by sample: the mean of squares is not the square of means
    assert fields["squared_gradients"] == pytest.approx(np.square(single).mean(axis=0), rel=1e-4, abs=1e-9)
    fields, _ = element_fields("taylor")
    weight = weights(model())["fc.weight"]
    expected = np.square(weight * batches).mean(axis=0)
    assert fields["squared_products"] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_without_labels_the_originals_classes_take_their_place() -> None:
    fields, given = element_fields("gradient", labels=False)
    batches = fc_gradients(values("logits")[0].argmax(axis=1)).reshape(2, 32, 4, 32).mean(axis=1)
    assert fields["gradients"] == pytest.approx(np.abs(batches).mean(axis=0), rel=1e-4, abs=1e-7)
    assert given.facts["loss"] == "cross-entropy to the original's classes"


def test_samples_says_how_many() -> None:
    _, given = element_fields({"name": "snip", "samples": 40})
    assert given.facts["samples"] == 40


def test_taylor_of_channels_sums_before_it_squares() -> None:
    given = material(criterion="taylor", ratio=0.5)
    base = model()
    analysis = analyse(base)
    fields = observed_channels.measure(base, base, analysis, analysis.families, given)["top.weight"]
    batches = fc_gradients(np.asarray(DATA.labels)).reshape(2, 32, 4, 32).mean(axis=1)
    product = (weights(base)["fc.weight"] * batches).sum(axis=1)  # what each of 32 channels has in fc
    expected = np.square(product).mean(axis=0)
    assert fields["squared_products"][1] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_activations_are_those_that_the_next_layer_reads() -> None:
    base = model()
    analysis = analyse(base)
    given = material(criterion="activation", ratio=0.5)
    fields = observed_channels.measure(base, base, analysis, analysis.families, given)
    stem, features = values("r1", "features")
    assert fields["stem.weight"]["mean_activation"] == pytest.approx(
        np.abs(stem).mean(axis=(0, 2, 3)), rel=1e-5
    )
    assert fields["stem.weight"]["active_share"] == pytest.approx((stem != 0).mean(axis=(0, 2, 3)))
    assert fields["stem.weight"]["pooled"] == pytest.approx(stem.mean(axis=(2, 3)), rel=1e-4, abs=1e-6)
    assert fields["top.weight"]["mean_activation"] == pytest.approx(np.abs(features).mean(axis=0), rel=1e-5)


def test_wanda_zeroes_the_lowest_of_each_output_row() -> None:
    after, _ = prune(DATA, granularity="element", criterion="wanda", ratio=0.5)
    before = weights(model())["fc.weight"]
    norms = np.sqrt(np.square(values("features")[0].astype(np.float64)).mean(axis=0))
    for row in range(4):
        lowest = sorted(range(32), key=lambda j, row=row: abs(before[row, j]) * norms[j])[:16]
        assert set(np.flatnonzero(after["fc.weight"][row] == 0)) == set(lowest)


def test_sparsegpt_keeps_the_answers_better_than_magnitudes() -> None:
    logits = values("logits")[0]

    def damage(criterion: str) -> float:
        made, _ = run(
            model(),
            recipe(granularity="element", criterion=criterion, ratio=0.6, scope="local"),
            Context(seed=0, train=DATA),
        )
        return float(np.square(values("logits", proto=ir.to_proto(made))[0] - logits).sum())

    assert damage("sparsegpt") < 0.5 * damage("l1")


def test_two_of_four_along_the_inputs_of_a_row() -> None:
    after, change = prune(granularity="n:m", criterion="l1")
    before = weights(model())["body.weight"].reshape(16, -1, 4)  # channels, then kernel positions
    kept = after["body.weight"].reshape(16, -1, 4) != 0
    assert (kept.sum(axis=2) == 2).all()
    assert (np.sort(np.abs(before))[..., 2] == np.where(kept, np.abs(before), np.inf).min(axis=2)).all()
    assert "no speed" in change.warnings[0]


def test_whole_kernels_go() -> None:
    after, change = prune(granularity="kernel", criterion="l1", ratio=0.5, scope="local")
    norms = np.abs(weights(model())["body.weight"]).sum(axis=(2, 3))
    gone = (after["body.weight"] == 0).all(axis=(2, 3))
    assert np.array_equal(gone, norms < np.median(norms))
    assert [entry["name"] for entry in change.skipped] == ["fc.weight"]


def test_stored_zeros_take_no_bytes_and_change_no_bit() -> None:
    made = {}
    for storage in ("plain", "auto"):
        made[storage], change = run(
            model(),
            recipe(granularity="element", criterion="l1", ratio=0.9, storage=storage),
            Context(seed=0, train=DATA),
        )
    assert change.details["stored"] == ["body.weight", "top.weight"]
    assert len(graph.to_bytes(made["auto"])) < 0.5 * len(graph.to_bytes(made["plain"]))
    plain, stored = (values("logits", proto=ir.to_proto(made[name]))[0] for name in ("plain", "auto"))
    assert np.array_equal(plain, stored)


def test_movement_sums_weight_times_step() -> None:
    """Under plain SGD -g is step / lr, whatever the loss."""

    class Holder:
        trainable = {"w": torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))}

    movement, weight, expected = Movement(), Holder.trainable["w"], np.zeros(3)
    stop = movement.follow(Holder(), ["w"])  # type: ignore[arg-type]
    for _ in range(3):
        before = weight.detach().numpy().copy()
        (weight**3).sum().backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
        weight.grad = None
        expected += before * (weight.detach().numpy() - before) / 0.1
    stop()
    (weight**3).sum().backward()
    assert movement.sums["w"] == pytest.approx(expected, rel=1e-5)


def test_movement_is_told_by_training_before_the_first_cut() -> None:
    _, change = prune(granularity="element", criterion="movement", ratio=0.5, finetune={})
    assert change.details["movement"]["epochs"][-1]["epoch"] == 1
    assert change.details["finetune"][0]["epochs"][-1]["epoch"] == 1


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("criterion", list(criteria))
def test_every_pair_runs_or_is_refused(granularity: str, criterion: str) -> None:
    section: dict[str, Any] = {"granularity": granularity, "criterion": criterion, "round_to": 1}
    if granularity != "channel":
        del section["round_to"]
    if granularity != "n:m":
        section["ratio"] = 0.5
    if criterion == "movement":
        section["finetune"] = {}
    if reason := refusal(criterion, granularity):
        with pytest.raises(ValidationError, match=re.escape(reason)):
            recipe(**section)
        return
    before = weights(model())
    after, _ = prune(samples(32), **section)
    old, new = (sum(int(np.count_nonzero(a)) for a in w.values() if a.ndim > 1) for w in (before, after))
    assert 0.1 * old < new < 0.8 * old  # half of the units, each of other weights


def test_bn_scale_needs_a_batch_norm() -> None:
    with pytest.raises(
        UnsupportedError, match=r"top.weight: no unfolded BatchNormalization .* use criterion l2"
    ):
        run(
            model(),
            recipe(criterion="bn_scale", ratio=0.5).model_copy(update={"skip": ["/stem", "/body"]}),
            Context(seed=0, train=DATA),
        )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"criterion": "movement", "ratio": 0.5}, "add `finetune: {}`"),
        ({"granularity": "element", "criterion": "wanda", "ratio": 0.5, "scope": "global"}, "one output row"),
        ({"granularity": "n:m", "ratio": 0.5}, "`pattern` says how much"),
        ({"granularity": "n:m", "pattern": "4:4"}, "N must be less than M"),
        ({"granularity": "element", "ratio": 0.5, "pattern": "1:4"}, "pattern would have no effect"),
        ({"ratio": 0.5, "storage": "auto"}, "storage would have no effect"),
    ],
)
def test_what_does_not_go_together_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        recipe(**section)


def test_a_recipe_asks_for_the_samples_that_its_criterion_is_measured_on() -> None:
    assert "train" not in recipe(criterion="l2", ratio=0.5).needs()
    assert recipe(criterion="taylor", ratio=0.5).needs() == {"calibration": False, "train": False}
    given = recipe(criterion="taylor", ratio=0.5).model_dump()
    given["data"] = {"calibration": {"path": "c.npz"}}
    assert type(recipe(ratio=0.5)).model_validate(given).needs() == {"calibration": False}


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_without_a_float_output_there_is_no_gradient(criterion: str) -> None:
    proto = task.solved()
    proto.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    made = ir.from_proto(proto)
    graph.clean(made)
    with pytest.raises(UnsupportedError, match="use l2, which needs no gradients"):
        run(made, recipe(criterion=criterion, ratio=0.5), Context(seed=0, train=samples(8)))


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_channels_of_other_float_types_are_observed_too(dtype: str) -> None:
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        net ({dtype}[N, 4] x) => ({dtype}[N, 4] y) <{dtype}[4, 8] up, {dtype}[8, 4] down> {{
            a = MatMul(x, up)
            b = Relu(a)
            y = MatMul(b, down)
        }}""")
    rng, kind = np.random.default_rng(0), {"float16": np.float16, "double": np.float64}[dtype]
    for name, shape in (("up", (4, 8)), ("down", (8, 4))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(kind), name))
    made, x = ir.from_proto(proto), rng.normal(size=(32, 4)).astype(kind)
    graph.clean(made)
    pruned, _ = run(
        made, recipe(criterion="activation", ratio=0.5), Context(seed=0, train=from_arrays({"x": x}))
    )
    up = numpy_helper.to_array(proto.graph.initializer[0])
    quiet = np.argsort(np.maximum(x.astype(float) @ up, 0).mean(axis=0))[:4]
    assert np.array_equal(weights(pruned)["up"], np.delete(up, quiet, axis=1))
