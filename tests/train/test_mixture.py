"""Learned weights of teachers: the most likely mixture, against a search by hand, and where they come from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.distill.run import run
from mlcompress.errors import DataError, RecipeError, UnsupportedError, UserError
from mlcompress.train import mixture
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.losses import entry
from mlcompress.train.mixture import learn_weights, mixture_weights
from mlcompress.train.terms import check_logits
from tests.distill.test_teachers import opened, pair, probabilities, recipe, save_second
from tests.train.nets import net, stripes


def mean_log(likelihoods: np.ndarray, weights: np.ndarray) -> float:
    return float(np.mean(np.log(weights @ np.exp(likelihoods))))


def test_the_mixture_of_the_largest_likelihood_is_found() -> None:
    """No point of a grid of hundredths over three weights is more likely, and equal weights are less."""
    likelihoods = np.log(np.random.default_rng(0).beta([[4.0], [3.0], [2.0]], 2.0, (3, 200)))
    found = mixture_weights(likelihoods)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    best = mean_log(likelihoods, found)
    grid = [np.array([a, b, 100 - a - b]) / 100 for a in range(101) for b in range(101 - a)]
    assert best >= max(mean_log(likelihoods, one) for one in grid) - 1e-6
    assert best > mean_log(likelihoods, np.full(3, 1 / 3)) + 1e-3


def test_two_weights_have_the_derivative_zero() -> None:
    """d/dw mean log(w p + (1 - w) q) = 0, by bisection."""
    likelihoods = np.log(np.array([[0.9, 0.8, 0.3, 0.6, 0.1], [0.5, 0.2, 0.7, 0.6, 0.4]]))
    p, q = np.exp(likelihoods)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        rises = ((p - q) / (middle * p + (1 - middle) * q)).sum() > 0
        low, high = (middle, high) if rises else (low, middle)
    assert 0.1 < low < 0.9
    np.testing.assert_allclose(mixture_weights(likelihoods), [low, 1 - low], atol=2e-3)  # flat: 1e-6 nats


def test_a_teacher_that_is_never_right_is_not_heard_and_tiny_likelihoods_do_no_harm() -> None:
    likelihoods = np.stack([np.full(50, -900.0), np.full(50, -1000.0)])  # exp of either is 0
    np.testing.assert_allclose(mixture_weights(likelihoods), [1, 0], atol=1e-5)
    np.testing.assert_allclose(mixture_weights(np.full((4, 9), -3.0)), [0.25] * 4)


def test_samples_that_no_teacher_explains_are_left_out() -> None:
    likelihoods = np.log(np.array([[0.9, 0.8, 0.3, 0.1], [0.5, 0.2, 0.7, 0.4]]))
    more = np.insert(likelihoods, 2, -np.inf, axis=1)
    np.testing.assert_array_equal(mixture_weights(more), mixture_weights(likelihoods))
    with pytest.raises(DataError, match="no teacher gives any label a probability above 0"):
        mixture_weights(np.full((2, 3), -np.inf))


def test_weights_that_do_not_settle_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_STEPS", 1)
    with pytest.raises(DataError, match=r"learned: not settled after 1 steps, at \[0\."):
        mixture_weights(np.log(np.array([[0.9, 0.8, 0.3], [0.5, 0.2, 0.7]])))


def test_losses_that_ask_one_teacher_leave_nothing_to_learn() -> None:
    context = Context(0, train=stripes(labels=False), teachers=pair())
    with pytest.raises(RecipeError, match="every loss asks one teacher"):
        learn_weights(Ensemble(pair(), "learned"), [entry("soft", teachers=[1])], net(), context, 1)


def test_a_teacher_that_gives_nan_is_named() -> None:
    first, second = pair()
    spoilt = np.full_like(second.model.graph.initializers["w2"].const_value.numpy(), np.nan)  # type: ignore[union-attr]
    second.model.graph.initializers["w2"].const_value = ir.tensor(spoilt, name="w2")
    context = Context(0, train=stripes(), teachers=(first, second))
    with pytest.raises(DataError, match=rf"learned: {second.file} gives NaN on 192 of 192 samples"):
        learn_weights(Ensemble((first, second), "learned"), [entry("soft")], net(), context, 1)


def test_answers_for_each_position_are_refused() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[N,1,6,6] image) => (float[N,1,6,6] logits) {logits = Relu(image)}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    teachers = tuple(replace(one, model=model) for one in pair())
    context = Context(0, train=stripes(), teachers=teachers)
    with pytest.raises(UnsupportedError, match=r"\[192, 1, 6, 6\], but class logits are"):
        learn_weights(Ensemble(teachers, "learned"), [entry("soft")], model, context, 1)


@pytest.mark.parametrize("shape", [(4, 3, 2), (4,), (4, 1)])
def test_scores_that_are_no_class_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedError, match=r"here: t.onnx has shape .* class logits are"):
        check_logits(torch.zeros(shape), "t.onnx", "here")


def test_only_class_scores_have_likelihoods() -> None:
    with pytest.raises(UnsupportedError, match="learned needs class scores, and mse compares plain values"):
        Ensemble(pair(), "learned").resolve(entry("mse"), net(), "here")


def test_each_loss_has_the_weights_of_those_it_asks() -> None:
    context = Context(0, train=stripes(), validation=stripes(90, seed=1), teachers=pair())
    losses = [entry("soft"), entry("dkd"), entry("soft", teachers=[1]), entry("hard")]
    fitted = learn_weights(Ensemble(pair(), "learned"), losses, net(), context, 1)
    (row,) = fitted.facts["learned"]
    panels = [fitted.ensemble.resolve(one, net(), "here").panel for one in losses[:3]]
    assert [list(one.weights or ()) for one in panels if one] == [row["weights"], row["weights"], [1.0]]
    assert row["weights"] != [0.5, 0.5]
    assert (
        fitted.ensemble.facts() != Ensemble(pair(), "learned").facts()
    )  # a state of other weights is not resumed


DATA = {"train": {"path": "train.npz", "inputs": {"image": "image"}, "label": "y"}}
HELD = {"validation": {"path": "val.npz"}}
EACH = {"file": "second.onnx", "inputs": {"pixels": "image"}, "transforms": [{"scale": 1000.0}], "outputs": {"logits": "scores"}}  # fmt: skip
LEARNED = {"teachers": {"combine": "learned", "each": [EACH]}}
TRAIN = {
    "threads": 1,
    "epochs": 1,
    "batch_size": 60,
    "validation": 0.1,
    "optimizer": {"name": "sgd", "lr": 0.01},
}


def learned(data: dict[str, Any], **train: Any) -> dict[str, Any]:
    model, context = opened(LEARNED, data=data, train=TRAIN | train)
    fitted = learn_weights(Ensemble(context.teachers, "learned"), [entry("soft")], model, context, 1)
    return fitted.facts


def save_worse() -> None:
    """A teacher with its own input that is right less often."""
    save_second(image="pixels", logits="scores", scale=1000.0)
    model = onnx.load("second.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "body.weight":
            array = onnx.numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).normal(0, 0.05, array.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array + noise, tensor.name))
    onnx.save(model, "second.onnx")


def test_weights_come_from_held_out_labels_as_each_teacher_sees_the_samples(inside: Path) -> None:
    save_worse()
    told = learned(DATA | HELD)
    (row,) = told["learned"]
    assert told["learned_on"] == {"data": "data.validation", "samples": 300}
    held = np.load("val.npz")
    image, labels = held["image"], held["y"]
    own = [probabilities("teacher.onnx", image), probabilities("second.onnx", image * np.float32(1000))]
    p, q = (one[np.arange(300), labels] for one in own)
    scores = [np.log(w * p + (1 - w) * q).mean() for w in np.linspace(0, 1, 1001)]
    assert row["weights"][0] == pytest.approx(np.argmax(scores) / 1000, abs=5e-3)
    assert 0.6 < row["weights"][0] < 1
    assert row["cross_entropy"]["learned"] == pytest.approx(-max(scores), abs=1e-5)
    assert row["cross_entropy"]["each"] == pytest.approx([-np.log(p).mean(), -np.log(q).mean()], abs=1e-5)


def test_a_share_of_the_training_data_serves_where_nothing_else_is_held_out(inside: Path) -> None:
    save_worse()
    assert learned(DATA)["learned_on"] == {"data": "data.validation", "samples": 60}
    assert learned(DATA, validation=0)["learned_on"] == {"data": "data.train", "samples": 600}


def test_the_card_tells_them_and_the_bytes_repeat(inside: Path) -> None:
    save_worse()

    def distilled() -> tuple[bytes, dict[str, Any]]:
        model, context = opened(LEARNED, data=DATA, train=TRAIN)
        student, done = run(model, recipe(LEARNED, data=DATA, train=TRAIN), context)
        return graph.to_bytes(student), json.loads(json.dumps(done.details["teachers"]))

    one, other = distilled(), distilled()
    assert one == other
    assert one[1]["combine"] == "learned"
    assert one[1]["learned"][0]["teachers"] == ["teacher.onnx", "second.onnx"]


def test_without_labels_it_is_refused_before_the_work(inside: Path) -> None:
    save_worse()
    np.savez("train.npz", image=np.load("train.npz")["image"])
    bare = {"train": {"path": "train.npz", "inputs": {"image": "image"}}}
    with pytest.raises(
        UserError, match=r"combine: learned needs class numbers; name the `label` of data.train"
    ):
        opened(LEARNED | {"losses": ["soft"]}, data=bare)


def test_one_teacher_has_nothing_to_learn(inside: Path) -> None:
    with pytest.raises(UserError, match=r"distill.teachers.combine: there is one teacher"):
        opened({"teachers": {"combine": "learned"}})
