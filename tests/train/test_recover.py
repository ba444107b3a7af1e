"""Fine-tuning towards the original: the student nears it, the teacher stays, a killed run goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mlcompress.context import Context
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.errors import DataError, RecipeError
from mlcompress.recipe.sections import Evaluate
from mlcompress.recipe.train import Augment, TrainSection
from mlcompress.train.executor import Executor
from mlcompress.train.losses import entry
from mlcompress.train.recover import default_losses, recover
from mlcompress.train.selection import History
from tests.train.nets import net, stripes, weights

FAST = TrainSection.model_validate({"batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.1}})


def taught() -> ir.Model:
    """A net that knows the stripes."""
    model = net(seed=4)
    settings = FAST.model_copy(update={"optimizer": FAST.optimizer.model_copy(update={"lr": 0.3})})
    recover(
        model, net(), settings, Context(0, train=stripes()), epochs=8, label="teacher", losses=[entry("hard")]
    )
    return model


def damaged(model: ir.Model) -> ir.Model:
    """A net like `model` whose first convolution lost half of its numbers."""
    spoilt = net()
    for name, array in weights(model).items():
        spoilt.graph.initializers[name].const_value = ir.tensor(array.copy(), name=name)
    half = weights(model)["w1"]
    half[:, :, 1] = 0
    spoilt.graph.initializers["w1"].const_value = ir.tensor(half, name="w1")
    return spoilt


def recovered(student: ir.Model, teacher: ir.Model, context: Context, **options: object) -> History:
    given = {"epochs": 4, "label": "recover", **options}
    return recover(student, teacher, FAST, context, **given)  # type: ignore[arg-type]


def distance(one: ir.Model, other: ir.Model, data: Dataset) -> float:
    inputs = {"image": torch.from_numpy(data.take(np.arange(len(data))).inputs["image"])}
    with torch.no_grad():
        return float(
            (Executor(one).eval()(inputs)["logits"] - Executor(other).eval()(inputs)["logits"])
            .square()
            .mean()
        )


def test_it_recovers_and_says_what_it_did() -> None:
    teacher = taught()
    student, before = damaged(teacher), weights(teacher)
    validation = stripes(90, seed=1)
    start = distance(student, teacher, validation)
    history = recovered(student, teacher, Context(0, train=stripes(), validation=validation))
    assert distance(student, teacher, validation) < 0.5 * start
    assert history.epochs[0]["epoch"] == 0  # the damaged net competes
    assert history.best_metric is not None
    assert history.best_metric >= history.epochs[0]["metric"]
    assert history.best_metric > 0.95
    assert all(np.array_equal(before[name], array) for name, array in weights(teacher).items())


@pytest.mark.parametrize("metric", ["agreement", "mse"])
def test_labels_are_not_needed(metric: str) -> None:
    teacher = taught()
    student = damaged(teacher)
    validation = stripes(90, seed=1, labels=False)
    start = distance(student, teacher, validation)
    context = Context(0, train=stripes(labels=False), validation=validation)
    recovered(student, teacher, context, evaluate=Evaluate(metric=metric))
    assert distance(student, teacher, validation) < 0.5 * start


def test_default_losses_follow_labels_outputs_and_metric() -> None:
    names = lambda found: [(one.name, one.weight) for one in found]  # noqa: E731
    top1 = Evaluate()
    assert names(default_losses(net(), stripes(6), top1)) == [("soft", 0.9), ("hard", pytest.approx(0.1))]
    assert names(default_losses(net(), stripes(6), top1, soft=1.0)) == [("soft", 1.0)]
    assert names(default_losses(net(), stripes(6, labels=False), top1)) == [("soft", 1.0)]
    assert names(default_losses(net(), stripes(6), Evaluate(metric="snr"))) == [("mse", 1.0)]
    assert names(default_losses(net(classes=1), stripes(6), Evaluate(metric="f1"))) == [("mse", 1.0)]


def test_what_is_missing_is_said() -> None:
    with pytest.raises(DataError, match=r"data\.train: training needs samples"):
        recovered(net(), net(1), Context(0))
    with pytest.raises(DataError, match="hard needs labels; name the `label`"):
        recovered(net(), net(1), Context(0, train=stripes(6, labels=False)), losses=[entry("hard")])
    blind = Context(0, train=stripes(6), validation=stripes(6, labels=False))
    with pytest.raises(DataError, match=r"evaluate\.metric: top1 needs labels"):
        recovered(net(), net(1), blind, losses=[entry("soft")])
    with pytest.raises(DataError, match="nothing to learn from"):
        recovered(net(), net(1), Context(0, train=stripes(6)), losses=[])
    with pytest.raises(RecipeError, match=r"evaluate\.output: the model has no output 'x'"):
        recovered(net(), net(1), Context(0, train=stripes(6)), evaluate=Evaluate(output="x"))


def test_zero_epochs_leave_the_weights() -> None:
    student = net()
    recovered(student, net(1), Context(0, train=stripes(6)), epochs=0)
    assert all(np.array_equal(array, weights(student)[name]) for name, array in weights(net()).items())


_KILLED = """
import os, signal, sys
from pathlib import Path
from mlcompress.context import Context
from mlcompress.train import loop
from mlcompress.train.recover import recover
from tests.train.nets import net, stripes
from tests.train.test_recover import FAST

save, calls = loop.save_state, []
def save_then_die(*given):
    save(*given)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_state = save_then_die
recover(net(), net(1), FAST, Context(0, train=stripes(), state_dir=Path(sys.argv[1])), epochs=4, label="r")
"""


def test_kill_minus_nine_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], cwd=root, env=environment, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    resumed, whole = net(), net()
    history = recover(
        resumed, net(1), FAST, Context(0, train=stripes(), state_dir=tmp_path), epochs=4, label="r"
    )
    assert history.resumed_after == 2
    recover(
        whole, net(1), FAST, Context(0, train=stripes(), state_dir=tmp_path / "other"), epochs=4, label="r"
    )
    assert all(np.array_equal(array, weights(resumed)[name]) for name, array in weights(whole).items())


def test_augmented_data_is_never_cached(tmp_path: Path) -> None:
    context = Context(0, train=stripes(), state_dir=tmp_path)
    flips = FAST.model_copy(update={"augment": [Augment(flip="horizontal")]})
    recover(net(), net(1), flips, context, epochs=1, label="r")
    assert not (tmp_path / "teacher").exists()
    recover(net(), net(1), FAST, context, epochs=1, label="r")
    assert (tmp_path / "teacher").is_dir()


@pytest.mark.parametrize("change", ["teacher", "losses"])
def test_a_run_with_another_teacher_or_loss_begins_anew(tmp_path: Path, change: str) -> None:
    context = Context(0, train=stripes(), state_dir=tmp_path)
    recovered(net(), net(1), context)
    assert recovered(net(), net(1), context).resumed_after == 4
    teacher = net(2 if change == "teacher" else 1)
    options = {"losses": [entry("soft", temperature=2.0)]} if change == "losses" else {}
    assert recovered(net(), teacher, context, **options).resumed_after == 0


def test_a_run_with_other_validation_data_begins_anew(tmp_path: Path) -> None:
    """The best epoch of the state was chosen by the first."""
    resumed = []
    for validation in (stripes(30, seed=1), stripes(30, seed=1), stripes(30, seed=2), None):
        context = Context(0, train=stripes(), validation=validation, state_dir=tmp_path)
        resumed.append(recovered(net(), net(1), context, epochs=1).resumed_after)
    assert resumed == [0, 1, 0, 0]


def test_answers_beyond_float16_are_compared_as_they_are() -> None:
    """Scores of 1e6 times those of a net: its classes, and nothing that float16 could hold."""
    teacher = net(1)
    for name in ("w2", "b2"):
        large = weights(teacher)[name] * np.float32(1e6)
        teacher.graph.initializers[name].const_value = ir.tensor(large, name=name)
    context = Context(0, train=stripes(), validation=stripes(60, seed=1, labels=False))
    options = {"evaluate": Evaluate(metric="agreement"), "losses": [entry("hard")], "epochs": 0}
    assert recovered(net(1), teacher, context, **options).best_metric == 1.0


def test_regression_learns_from_its_teacher() -> None:
    teacher, student = net(seed=7, classes=1), net(seed=8, classes=1)
    data = from_arrays({"image": stripes(96).take(np.arange(96)).inputs["image"]}, name="data.train")
    start = distance(student, teacher, data)
    context = Context(0, train=data, validation=data)
    history = recovered(student, teacher, context, epochs=8, evaluate=Evaluate(metric="mse"))
    assert distance(student, teacher, data) < 0.3 * start
    assert history.best_metric == pytest.approx(distance(student, teacher, data), rel=1e-4)  # float32
