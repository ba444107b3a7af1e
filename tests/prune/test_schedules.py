"""Steps of a schedule: what share is gone after each, and how the epochs are shared out."""

import pytest

from mlcompress.prune.schedules import Step, gradual, iterative, oneshot


def test_oneshot_does_everything_at_once() -> None:
    assert oneshot(7) == [Step(1.0, 7)]


def test_iterative_steps_are_equal_and_share_the_epochs() -> None:
    steps = iterative(10, steps=4)
    assert [step.share for step in steps] == [0.25, 0.5, 0.75, 1.0]
    assert [step.epochs for step in steps] == [2, 3, 2, 3]


def test_gradual_follows_the_cubic_of_zhu_and_gupta() -> None:
    steps = gradual(20, steps=5, initial=0.1, span=0.6)
    sparsity = [1 - 0.9 * (1 - k / 4) ** 3 for k in range(5)]  # 1 + (0.1 - 1) * (...)^3, by hand
    assert [step.share for step in steps] == pytest.approx(sparsity)
    assert [step.epochs for step in steps] == [3, 3, 3, 3, 8]  # 60 % before the last cut, the rest holds


@pytest.mark.parametrize("epochs", [5, 6, 9, 31])
@pytest.mark.parametrize("span", [0.1, 0.6, 1.0])
def test_gradual_spends_every_epoch_and_one_at_least_on_each_step(epochs: int, span: float) -> None:
    steps = gradual(epochs, steps=5, span=span)
    assert sum(step.epochs for step in steps) == epochs
    assert min(step.epochs for step in steps) >= 1
    assert steps[-1].share == 1.0
