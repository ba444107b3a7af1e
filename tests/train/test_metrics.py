"""Metrics of an executor against numpy on the same outputs."""

import numpy as np
import pytest
import torch

from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.recipe.sections import Evaluate
from mlcompress.train.batches import to_torch
from mlcompress.train.executor import Executor
from mlcompress.train.metrics import HIGHEST, needs_teacher, score
from mlcompress.train.teacher import Teacher
from tests.train.nets import net, stripes

FLOAT32 = 1e-6  # the outputs are float32


def outputs(seed: int, data: Dataset, classes: int = 3) -> np.ndarray:
    with torch.no_grad():
        return (
            Executor(net(seed, classes=classes))
            .eval()(to_torch(data.take(np.arange(len(data)))).inputs)["logits"]
            .double()
            .numpy()
        )


def measured(metric: str, data: Dataset, *, teacher: int | None = None, classes: int = 3) -> float:
    reference = None if teacher is None else Teacher(net(teacher), ["logits"])
    section = Evaluate(metric=metric, batch_size=25)  # the last of 90 is ragged
    return score(Executor(net(0, classes=classes)).train(), data, section, "logits", reference)


def test_top1_and_f1() -> None:
    data = stripes(90)
    guess, labels = outputs(0, data).argmax(1), data.labels
    assert measured("top1", data) == pytest.approx((guess == labels).mean(), abs=FLOAT32)
    f1 = [
        2 * ((guess == c) & (labels == c)).sum() / ((guess == c).sum() + (labels == c).sum())
        for c in range(3)
    ]
    assert measured("f1", data) == pytest.approx(np.mean(f1), abs=FLOAT32)


def test_top5_of_seven_classes() -> None:
    data = stripes(90)
    best = np.argsort(-outputs(0, data, 7), axis=1)[:, :5]
    expected = (best == data.labels[:, None]).any(1).mean()
    assert 0 < expected < 1
    assert measured("top5", data, classes=7) == pytest.approx(expected, abs=FLOAT32)


def test_metrics_against_the_teacher() -> None:
    data = stripes(90, labels=False)
    ours, theirs = outputs(0, data), outputs(1, data)
    assert measured("agreement", data, teacher=1) == pytest.approx(
        (ours.argmax(1) == theirs.argmax(1)).mean(), abs=FLOAT32
    )
    assert measured("mse", data, teacher=1) == pytest.approx(((ours - theirs) ** 2).mean(), rel=FLOAT32)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert measured("cosine", data, teacher=1) == pytest.approx(cosine.mean(), abs=FLOAT32)
    snr = 10 * np.log10((theirs**2).sum() / ((theirs - ours) ** 2).sum())
    assert measured("snr", data, teacher=1) == pytest.approx(snr, abs=1e-3)  # in dB


def test_mse_against_float_labels() -> None:
    data = stripes(90)
    wanted = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    regression = from_arrays({"image": data.take(np.arange(90)).inputs["image"]}, wanted)
    assert measured("mse", regression) == pytest.approx(
        ((outputs(0, data) - wanted) ** 2).mean(), rel=FLOAT32
    )


def test_equal_outputs_have_a_finite_snr() -> None:
    executor = Executor(net()).eval()
    data, section = stripes(30, labels=False), Evaluate(metric="snr")
    assert score(executor, data, section, "logits", lambda batch: executor(batch.inputs)) == HIGHEST


def test_top5_of_few_classes_is_refused_as_it_is_for_an_artifact() -> None:
    with pytest.raises(DataError, match="top5 needs more than 5 classes"):
        measured("top5", stripes(30))


def test_scoring_does_not_move_running_statistics() -> None:
    executor = Executor(net()).train()
    before = {name: tensor.clone() for name, tensor in executor.state_dict().items()}
    score(executor, stripes(30), Evaluate(), "logits")
    assert all(torch.equal(tensor, before[name]) for name, tensor in executor.state_dict().items())
    assert not executor.training


def test_what_a_metric_needs() -> None:
    assert [needs_teacher(name, stripes(6)) for name in ("top1", "agreement", "mse")] == [False, True, True]
    with pytest.raises(DataError, match="top1 needs labels"):
        measured("top1", stripes(6, labels=False))
    with pytest.raises(UnsupportedError, match="agreement needs a teacher"):
        measured("agreement", stripes(6))
