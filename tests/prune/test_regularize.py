"""Penalties against sums written out with numpy, and what training with them does to the units."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.graph.dependency import analyse
from mlcompress.prune.penalty import Penalty, slices
from mlcompress.prune.regularize import group_lasso, growing_l2, l1, regularizers
from mlcompress.recipe.train import EarlyStop
from mlcompress.train.executor import Executor
from mlcompress.train.recover import recover
from tests import task
from tests.prune import direct

RNG = np.random.default_rng(0)
UNITS = [RNG.normal(size=(4, 6)), RNG.normal(size=(3, 2))]
TENSORS = [torch.from_numpy(rows) for rows in UNITS]
DOOMED = [np.array([True, False, True, False]), np.array([False, False, True])]
EXACT = 1e-9
"""Both sides sum a few dozen float64 numbers; the root has 1e-12 under it."""


def test_l1_is_the_sum_of_magnitudes() -> None:
    wanted = 0.5 * sum(abs(value) for rows in UNITS for row in rows for value in row)
    assert float(l1(TENSORS, strength=0.5)) == pytest.approx(wanted, rel=EXACT)


def test_group_lasso_is_the_sum_of_norms_of_units() -> None:
    wanted = 0.5 * sum(np.sqrt(sum(value**2 for value in row)) for rows in UNITS for row in rows)
    assert float(group_lasso(TENSORS, strength=0.5)) == pytest.approx(wanted, rel=EXACT)


def test_group_lasso_has_a_gradient_at_zero() -> None:
    zeros = torch.zeros(2, 3, requires_grad=True)
    group_lasso([zeros], strength=1.0).backward()
    assert torch.isfinite(zeros.grad).all()


def test_growing_l2_grows_with_the_step_and_spares_what_stays() -> None:
    masks = [torch.from_numpy(mask) for mask in DOOMED]
    squares = sum(float(np.square(rows[mask]).sum()) for rows, mask in zip(UNITS, DOOMED, strict=True))
    for step in (0, 1, 10):
        found = float(growing_l2(TENSORS, masks, step, strength=1e-3))
        assert found == pytest.approx(1e-3 * step / 2 * squares, rel=EXACT)


def test_slices_hold_what_a_numpy_gather_holds() -> None:
    model = ir.from_proto(task.net())
    graph.clean(model)
    families = analyse(model).families
    rows = slices(Executor(model), families)()
    arrays = {init.name: onnx.numpy_helper.to_array(init) for init in task.net().graph.initializer}
    by_name = dict(zip([family.name for family in families], rows, strict=True))
    top = np.concatenate([arrays["top.weight"].reshape(32, -1), arrays["fc.weight"].T], axis=1)
    assert np.array_equal(by_name["top.weight"].detach().numpy(), top)


def test_a_penalty_counts_its_steps() -> None:
    masks = [torch.from_numpy(mask) for mask in DOOMED]
    penalty = Penalty(regularizers.choose("growing_l2", strength=1e-3), lambda: TENSORS, masks)
    first, second, third = float(penalty()), float(penalty()), float(penalty())
    assert first == 0.0
    assert third == pytest.approx(2 * second)


def test_a_penalty_is_not_stopped_early() -> None:
    """Nothing is validated while units are made small: their metric would speak against it."""
    settings = direct.recipe(ratio=0.5, finetune={}).train.model_copy(
        update={"early_stop": EarlyStop(patience=1)}
    )
    for validation in (direct.samples(), None):
        executor = Executor(model := direct.model())
        families = analyse(model).families
        doomed = [torch.ones(family.units, dtype=torch.bool) for family in families]
        penalty = Penalty(regularizers.choose("l1", strength=10.0), slices(executor, families), doomed)
        history = recover(
            model, direct.model(), settings, Context(0, train=direct.samples(), validation=validation),
            epochs=3, label="towards sparsity", executor=executor, penalty=penalty,
        )  # fmt: skip
        assert (len(history.epochs), history.stopped) == (3, False)


class Stop(Exception):
    """Stands for a kill: leaves training between two batches."""


class Stops(Penalty):
    """A penalty that ends the run when it is asked for the ninth time."""

    def forward(self) -> torch.Tensor:
        if int(self.step) == 8:
            raise Stop
        return super().forward()


def trained(tmp_path: Path, kind: type[Penalty]) -> dict[str, np.ndarray]:
    """The weights after four epochs of three steps under a penalty that grows."""
    model = direct.model()
    executor = Executor(model)
    families = analyse(model).families
    doomed = [torch.arange(family.units) < 4 for family in families]
    penalty = kind(regularizers.choose("growing_l2", strength=1e-2), slices(executor, families), doomed)
    settings = direct.recipe(ratio=0.5, finetune={}).train
    recover(
        model, direct.model(), settings, Context(0, train=direct.samples(), state_dir=tmp_path),
        epochs=4, label="towards sparsity", executor=executor, penalty=penalty,
    )  # fmt: skip
    return direct.weights(model)


def test_a_penalty_that_grows_goes_on_where_a_killed_run_stopped(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", Penalty)
    with pytest.raises(Stop):
        trained(tmp_path / "killed", Stops)
    resumed = trained(tmp_path / "killed", Penalty)
    assert all(np.array_equal(array, resumed[name]) for name, array in whole.items())
