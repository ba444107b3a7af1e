"""The loop on a task of a second: it learns, repeats itself, goes on after a stop, keeps the best."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlcompress.errors import DataError, DivergedError, UnsupportedError, UserError
from mlcompress.recipe.train import TrainSection
from mlcompress.train.batches import EpochOrder, TorchBatch
from mlcompress.train.device import set_layout
from mlcompress.train.executor import Executor
from mlcompress.train.loop import fit
from mlcompress.train.selection import History
from tests.train.nets import net, stripes, weights

FAST = {"batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.2}}


def cross_entropy(outputs: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
    return functional.cross_entropy(outputs["logits"], batch.labels)


def train(
    epochs: int = 3,
    *,
    settings: dict[str, Any] | None = None,
    validate: Callable[[], float] | None = None,
    **arguments: Any,
) -> tuple[dict[str, np.ndarray], History]:
    """Weights and history after training the tiny net."""
    model = arguments.pop("model", None) or net()
    executor = Executor(model)
    section = TrainSection.model_validate({**FAST, **(settings or {})})
    given = {"seed": 0, "state_dir": None, "label": "fit", "higher_is_better": True, **arguments}
    history = fit(
        executor,
        given.pop("loss", cross_entropy),
        given.pop("data", stripes()),
        section,
        epochs=epochs,
        validate=validate,
        **given,
    )
    executor.write_back()
    return weights(model), history


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def scripted(values: list[float]) -> Callable[[], float]:
    remaining = iter(values)
    return lambda: next(remaining)


def test_it_learns() -> None:
    _, history = train(6)
    losses = [row["loss"] for row in history.epochs]
    assert losses[0] > 0.7  # three classes: ln 3 = 1.10 is chance
    assert losses[-1] < 0.2
    assert history.best_epoch == 6  # without validation the last epoch is kept


def test_same_seed_same_bytes_and_another_seed_differs() -> None:
    first, _ = train()
    again, _ = train()
    other, _ = train(seed=1)
    assert same(first, again)
    assert not same(first, other)


def test_random_ops_are_seeded() -> None:
    def dropped(seed: int) -> dict[str, np.ndarray]:
        torch.rand(3)  # what happened before must not matter
        return train(2, model=net(dropout=True), seed=seed)[0]

    first, again, other = dropped(0), dropped(0), dropped(1)
    assert same(first, again)
    assert not same(first, other)
    assert not np.array_equal(first["w2"], train(2)[0]["w2"])  # control: dropping does something


def test_running_statistics_are_trained_too() -> None:
    trained, _ = train(1)
    assert not np.array_equal(trained["m1"], weights(net())["m1"])


class Stop(Exception):
    """Stands for a kill: leaves `fit` between two batches."""


@pytest.mark.parametrize(
    "settings", [{}, {"ema": 0.9, "accumulate": 2}, {"optimizer": {"name": "adamw", "lr": 0.01}}]
)
@pytest.mark.parametrize("metrics", [[0.1, 0.5, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])  # best before, and after
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, settings: dict[str, Any], metrics: list[float]
) -> None:
    whole, expected = train(4, settings=settings, validate=scripted(metrics))

    calls = 0

    def dies(outputs: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 6 * 2 + 3:  # in the third epoch of six batches
            raise Stop
        return cross_entropy(outputs, batch)

    with pytest.raises(Stop):
        train(4, settings=settings, validate=scripted(metrics), loss=dies, state_dir=tmp_path)
    resumed, history = train(4, settings=settings, validate=scripted(metrics[2:]), state_dir=tmp_path)
    assert history.resumed_after == 2
    assert same(whole, resumed)
    assert history.as_card() == expected.as_card()


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = train(2, state_dir=tmp_path)
    again, history = train(2, state_dir=tmp_path, loss=lambda outputs, batch: pytest.fail("trained again"))
    assert history.resumed_after == 2
    assert same(first, again)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"key": "other"}, {"settings": {"clip": 1.0}}, {"data": stripes(seed=5)}]
)
def test_state_of_another_run_is_not_used(tmp_path: Path, change: dict[str, Any]) -> None:
    train(2, state_dir=tmp_path)
    _, history = train(2, state_dir=tmp_path, **change)
    assert history.resumed_after == 0


def test_a_broken_state_file_is_not_used(tmp_path: Path) -> None:
    train(2, state_dir=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    _, history = train(2, state_dir=tmp_path)
    assert history.resumed_after == 0


def test_the_best_epoch_is_kept() -> None:
    flat = {"schedule": {"name": "constant", "warmup": 0.0}}  # so that two epochs of four are those of two
    kept, history = train(4, validate=scripted([0.2, 0.9, 0.4, 0.9]), settings=flat)
    after_two, _ = train(2, settings=flat)
    after_four, _ = train(4, settings=flat)
    assert (history.best_epoch, history.best_metric) == (2, 0.9)  # the first of two equal ones
    assert same(kept, after_two)
    assert not same(kept, after_four)


def test_lower_is_better_for_errors() -> None:
    _, history = train(3, validate=scripted([0.5, 0.2, 0.3]), higher_is_better=False)
    assert (history.best_epoch, history.best_metric) == (2, 0.2)


def test_the_first_weights_can_win() -> None:
    kept, history = train(2, validate=scripted([0.9, 0.5, 0.6]), keep_initial=True)
    assert same(kept, weights(net()))
    assert history.best_epoch == 0
    assert [row["metric"] for row in history.epochs] == [0.9, 0.5, 0.6]


def test_early_stop_counts_epochs_without_progress() -> None:
    _, history = train(9, validate=scripted([0.5, 0.6, 0.6, 0.5]), settings={"early_stop": {"patience": 2}})
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3, 4]
    assert history.stopped
    assert history.best_epoch == 2


def test_early_stop_without_validation_is_refused() -> None:
    with pytest.raises(DataError, match="early_stop: needs validation data"):
        train(2, settings={"early_stop": {"patience": 1}})


def test_averaged_weights_are_what_is_kept() -> None:
    """Decay 1 with few updates: d = (1 + n) / (10 + n). One step from w0 to w1 leaves 2/11 w0 + 9/11 w1."""
    one = {"schedule": {"name": "constant", "warmup": 0.0}, "batch_size": 192}
    plain, _ = train(1, settings=one)
    averaged, _ = train(1, settings={**one, "ema": 1.0})
    start = weights(net())
    for name in ("w1", "w2", "m1"):
        expected = start[name] * 2 / 11 + plain[name] * 9 / 11
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-5, atol=1e-7)  # float32 rounding


def test_every_epoch_has_an_order_of_its_own() -> None:
    seen: list[list[int]] = []

    def watch(outputs: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
        seen.append(batch.ids.tolist())
        return cross_entropy(outputs, batch)

    train(2, loss=watch, settings={"batch_size": 192})
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(192))
    assert seen[0] != seen[1]


def test_frozen_weights_stay() -> None:
    trained, _ = train(1, frozen=["w1", "b2"])
    start = weights(net())
    assert np.array_equal(trained["w1"], start["w1"])
    assert np.array_equal(trained["b2"], start["b2"])
    assert not np.array_equal(trained["w2"], start["w2"])


def test_averaging_does_not_change_the_course_of_training() -> None:
    _, plain = train(3)
    _, averaged = train(3, settings={"ema": 0.99})
    assert [row["loss"] for row in averaged.epochs] == [row["loss"] for row in plain.epochs]


def test_validation_sees_the_eval_mode() -> None:
    model = net()
    executor = Executor(model)
    modes: list[bool] = []

    def validate() -> float:
        modes.append(executor.training)
        return 0.0

    section = TrainSection.model_validate(FAST)
    fit(
        executor,
        cross_entropy,
        stripes(),
        section,
        seed=0,
        validate=validate,
        higher_is_better=True,
        epochs=2,
        state_dir=None,
        label="modes",
    )
    assert modes == [False, False]


@pytest.mark.parametrize("ema", [None, 0.99])
def test_masks_hold_after_every_step_and_in_the_average(ema: float | None) -> None:
    model = net()
    executor = Executor(model)
    mask = torch.ones(8, 1, 3, 3)
    mask[:4] = 0

    def mend() -> None:
        with torch.no_grad():
            executor.trainable["w1"].mul_(mask)

    section = TrainSection.model_validate({**FAST, "ema": ema})
    fit(
        executor,
        cross_entropy,
        stripes(),
        section,
        seed=0,
        validate=None,
        higher_is_better=True,
        epochs=1,
        state_dir=None,
        label="masked",
        after_step=mend,
    )
    executor.write_back()
    kept = weights(model)["w1"]
    assert not kept[:4].any()
    assert kept[4:].all()


def test_taps_reach_the_loss() -> None:
    seen: list[tuple[int, ...]] = []

    def on_tap(outputs: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
        seen.append(tuple(outputs["p"].shape))
        return cross_entropy(outputs, batch)

    train(1, loss=on_tap, taps=["p"])
    assert set(seen) == {(32, 8)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_said_with_what_to_try(value: float) -> None:
    with pytest.raises(
        UserError, match=r"train: the loss is (nan|inf) in epoch 1, step 1; lower train.optimizer.lr \(0.2\)"
    ):
        train(1, loss=lambda outputs, batch: outputs["logits"].sum() * value)


def test_the_state_of_the_last_good_epoch_stays(tmp_path: Path) -> None:
    def broken(outputs: dict[str, torch.Tensor], batch: TorchBatch) -> torch.Tensor:
        return cross_entropy(outputs, batch) * (float("nan") if batches.append(1) or len(batches) > 8 else 1)

    batches: list[int] = []
    words = r"epoch 2, .*\(the state of epoch 1 is kept beside OUTPUT\)"
    with pytest.raises(DivergedError, match=words):
        train(3, loss=broken, state_dir=tmp_path)
    _, history = train(3, state_dir=tmp_path)
    assert history.resumed_after == 1


def test_a_metric_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="validation metric is nan after epoch 1"):
        train(1, validate=lambda: float("nan"))


def test_missing_device_and_precision_are_refused() -> None:
    if torch.cuda.is_available():  # the message is about machines without it
        return
    with pytest.raises(UnsupportedError, match=r"train\.device: this torch finds no cuda device"):
        train(1, settings={"device": "cuda"})
    with pytest.raises(UnsupportedError, match="fp16 training needs a CUDA device"):
        train(1, settings={"precision": "fp16"})


def test_bf16_trains_and_leaves_float32_weights() -> None:
    trained, history = train(6, settings={"precision": "bf16"})
    assert {array.dtype for name, array in trained.items() if name != "axes"} == {np.dtype(np.float32)}
    assert history.epochs[-1]["loss"] < 0.3  # like float32 (0.2), with three digits of mantissa
    train(1)  # another precision in the same process


def test_clip_bounds_the_step() -> None:
    huge = {
        "clip": 1e-6,
        "schedule": {"name": "constant", "warmup": 0.0},
        "optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0, "weight_decay": 0},
    }
    trained, _ = train(1, settings={**huge, "batch_size": 192})
    moved = np.sqrt(
        sum(((trained[n] - weights(net())[n]) ** 2).sum() for n in ("w1", "g1", "b1", "w2", "b2"))
    )
    assert moved <= 1.01e-6 + 1e-7  # lr 1 times norm 1e-6, and float32 rounding of weights near 1


def test_history_is_json_and_tells_rates() -> None:
    _, history = train(2, validate=scripted([0.1, 0.2]))
    card = json.loads(json.dumps(history.as_card()))
    assert [row["epoch"] for row in card["epochs"]] == [1, 2]
    assert card["epochs"][0]["lr"] > card["epochs"][1]["lr"] > 0
    assert card["best_epoch"] == 2


def test_weights_are_channels_last_also_with_one_channel() -> None:
    """torch picks its kernels by strides, and those of an axis of length 1 are free."""
    model = net()
    executor = Executor(model)
    weight = executor.trainable["w1"]
    shape = weight.shape
    assert tuple(shape)[1:] == (1, 3, 3)
    set_layout(executor, torch.channels_last)
    height, width = shape[2:]
    assert executor.trainable["w1"].stride() == (height * width * shape[1], 1, width * shape[1], shape[1])
    set_layout(executor, torch.contiguous_format)
    assert executor.trainable["w1"].stride() == (height * width * shape[1], height * width, width, 1)


def torch_settings() -> list[object]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return [torch.get_num_threads(), deterministic, fills]


def test_torch_settings_are_put_back() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    train(1)  # with one thread
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    settings, state = torch_settings(), torch.get_rng_state()
    train(1)
    assert torch_settings() == settings
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own() -> None:
    order = EpochOrder(10, 5, None, seed=3)
    passes = []
    for epoch in (0, 1, 0):
        order.epoch = epoch
        passes.append([i for batch in order for i in batch])
    assert sorted(passes[0]) == list(range(10))
    assert passes[0] != passes[1]
    assert passes[0] == passes[2]


def test_ragged_batches_are_left_out_but_never_all() -> None:
    assert [len(batch) for batch in EpochOrder(11, 4, None, seed=0)] == [4, 4]
    assert [len(batch) for batch in EpochOrder(3, 4, None, seed=0)] == [3]


def test_growing_data_is_nested_and_reaches_all() -> None:
    grow = TrainSection.model_validate({"grow": {"from": 0.25, "epochs": 3}}).grow
    order = EpochOrder(100, 5, grow, seed=0)
    assert [order.samples(epoch) for epoch in range(5)] == [25, 50, 75, 100, 100]
    seen = []
    for epoch in range(4):
        order.epoch = epoch
        seen.append({i for batch in order for i in batch})
    assert seen[0] < seen[1] < seen[2] < seen[3]
    assert seen[0] != set(range(25))  # drawn from all: files are often sorted by class
