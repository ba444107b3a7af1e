"""Learning rates and weight averages against numbers worked out by hand; weight decay where it belongs."""

import math

import pytest
import torch
from torch import nn

from mlcompress.recipe.train import Optimizer, Schedule
from mlcompress.train.optim import Average, learning_rate, optimizer

EXACT = 1e-12  # float64 arithmetic


def rates(schedule: Schedule, total: int, peak: float = 1.0) -> list[float]:
    return [learning_rate(step, total, schedule, peak) for step in range(total)]


def test_warmup_rises_linearly_to_the_peak() -> None:
    assert rates(Schedule(name="constant", warmup=0.4), 10, 2.0) == pytest.approx(
        [0.5, 1.0, 1.5, 2.0, *[2.0] * 6], rel=EXACT
    )


def test_cosine_falls_from_the_peak_towards_zero() -> None:
    got = rates(Schedule(name="cosine", warmup=0.2), 10)
    expected = [0.5, 1.0] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert got == pytest.approx(expected, rel=EXACT)
    assert got[6] == pytest.approx(0.5, rel=EXACT)  # half-way


def test_step_falls_at_its_milestones() -> None:
    got = rates(Schedule(name="step", warmup=0.0, milestones=[0.5, 0.8], gamma=0.1), 10)
    assert got == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2, rel=1e-9)


def test_onecycle_starts_at_a_25th_and_peaks_after_the_warmup() -> None:
    got = rates(Schedule(name="onecycle", warmup=0.5), 8)
    assert got[0] == pytest.approx(1 / 25, rel=EXACT)
    assert got[2] == pytest.approx((1 + 1 / 25) / 2, rel=EXACT)
    assert got[4] == pytest.approx(1.0, rel=EXACT)
    assert got[6] == pytest.approx((1 + 1 / 25e4) / 2, rel=EXACT)


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "onecycle"])
def test_one_step_is_enough(name: str) -> None:
    assert learning_rate(0, 1, Schedule(name=name), 0.1) == pytest.approx(0.1, rel=EXACT)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_biases_and_norm_scales_do_not_decay(name: str, kind: type) -> None:
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    made = optimizer([weight, bias], Optimizer(name=name, weight_decay=0.5))
    assert isinstance(made, kind)
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert decays == {id(weight): 0.5, id(bias): 0.0}


def test_sgd_step_by_hand() -> None:
    """Nesterov: v = m v + g; w <- w - lr (g + m v), g with the decay of 0.1 w."""
    weight = nn.Parameter(torch.tensor([[1.0]], dtype=torch.float64))
    made = optimizer([weight], Optimizer(name="sgd", lr=0.5, momentum=0.9, weight_decay=0.1))
    weight.grad = torch.tensor([[2.0]], dtype=torch.float64)
    made.step()
    assert float(weight.detach()) == pytest.approx(1 - 0.5 * (2.1 + 0.9 * 2.1), rel=EXACT)


def test_frozen_parameters_are_left_out() -> None:
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    made = optimizer([frozen, nn.Parameter(torch.ones(1, 1))], Optimizer())
    assert sum(len(group["params"]) for group in made.param_groups) == 1


def test_average_by_hand() -> None:
    """Update n uses d = min(decay, (1 + n) / (10 + n)): 2/11, then 3/12, then 0.25 because of the decay."""
    average = Average({"w": torch.tensor([0.0], dtype=torch.float64), "n": torch.tensor([0])}, 0.25)
    first = 11.0 * (1 - 2 / 11)
    second = first * 0.25 + 20.0 * 0.75
    third = second * 0.25 + 4.0 * 0.75
    for number, (value, expected) in enumerate([(11.0, first), (20.0, second), (4.0, third)], start=1):
        average.update({"w": torch.tensor([value], dtype=torch.float64), "n": torch.tensor([number])})
        assert float(average.tensors["w"]) == pytest.approx(expected, rel=EXACT)
        assert int(average.tensors["n"]) == number


def test_average_does_not_share_memory_with_the_weights() -> None:
    weight = torch.zeros(2)
    average = Average({"w": weight}, 0.9)
    weight.fill_(5.0)
    assert average.tensors["w"].tolist() == [0.0, 0.0]
