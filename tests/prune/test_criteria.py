"""Scores against numbers worked out by hand, or by the plainest numpy that says the same."""

from typing import Any

import numpy as np
import pytest

from mlcompress.prune.criteria import Group, Layer, criteria, rank

PRODUCER = np.array([[3.0, 4.0], [0.0, 1.0], [-6.0, 8.0]])
CONSUMER = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3.0], [-2.0, 0.0, 0.0, 0.0]])
UNIT_STEEP = (np.array([[1.0, -1.0], [2.0, 0.0], [0.5, 0.0]]), np.full((3, 4), 0.25))


def score(name: str, seed: int = 0, options: dict[str, Any] | None = None, **fields: Any) -> list[float]:
    group = Group((PRODUCER, CONSUMER), first=1, rng=np.random.default_rng(seed), **fields)
    return [float(value) for value in rank(criteria.choose(name, **(options or {})), group)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l2", [(5 + 2) / 2, (1 + 3) / 2, (10 + 2) / 2]),
        ("l1", [(7 + 4) / 2, (1 + 3) / 2, (14 + 2) / 2]),
        ("l2_first", [5.0, 1.0, 10.0]),
        ("l1_first", [7.0, 1.0, 14.0]),
        ("lamp", [12.25 / (12.25 + 36), 4 / (4 + 12.25 + 36), 1.0]),
        ("fpgm", [18**0.5 + 97**0.5, 18**0.5 + 85**0.5, 97**0.5 + 85**0.5]),
    ],
)
def test_scores_of_weights(name: str, expected: list[float]) -> None:
    assert score(name) == pytest.approx(expected, rel=1e-12)


def test_random_is_seeded() -> None:
    assert score("random", seed=1) == score("random", seed=1) != score("random", seed=2)


def test_bn_scale_is_the_size_of_the_scale() -> None:
    assert score("bn_scale", scales=(np.array([[-2.0], [0.5], [1.0]]),)) == [2.0, 0.5, 1.0]


def test_weight_entropy_of_channels_and_of_single_weights() -> None:
    rows = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 2.9, 4.0]])
    choice = criteria.choose("weight_entropy", bins=4)
    assert rank(choice, Group((rows,), 1, np.random.default_rng(0))) == pytest.approx([0, 1, 2])
    single = np.array([[0.1], [0.1], [0.1], [4.0]])  # three of four in one bin
    expected = [-np.log2(0.75)] * 3 + [2.0]
    assert rank(choice, Group((single,), 1, np.random.default_rng(0))) == pytest.approx(expected)


def test_criteria_on_gradients() -> None:
    assert score("gradient", gradients=tuple(np.abs(g) for g in UNIT_STEEP)) == [1.5, 1.5, 0.75]
    snip = [(7 + 1) / 2, (0 + 0.75) / 2, (3 + 0.5) / 2]
    assert score("snip", gradients=tuple(np.abs(g) for g in UNIT_STEEP)) == pytest.approx(snip)
    fisher = [(25 + 0.25) / 4, (0 + 9 / 16) / 4, (9 + 4 / 16) / 4]
    assert score("fisher", squared_gradients=tuple(g**2 for g in UNIT_STEEP)) == pytest.approx(fisher)
    products = (np.array([1.0, 2.0, 3.0]), np.array([3.0, 0.0, 1.0]))
    assert score("taylor", squared_products=products) == [2.0, 1.0, 2.0]
    assert score("movement", movements=(np.array([[1.0, -2.0], [0.0, 1.0], [2.0, 2.0]]),)) == [-1.0, 1.0, 4.0]


def test_criteria_on_activations() -> None:
    assert score("activation", mean_activation=np.array([1.0, 2.0, 3.0])) == [1.0, 2.0, 3.0]
    assert score("apoz", active_share=np.array([0.1, 1.0, 0.5])) == [0.1, 1.0, 0.5]
    pooled = np.array([[7.0, 0.0, 0.0], [7.0, 0.0, 1.0], [7.0, 9.0, 2.0], [7.0, 9.0, 3.0]])
    assert score("entropy", options={"bins": 4}, pooled=pooled) == pytest.approx([0, 1, 2])


def test_wanda_is_a_sum_over_the_readers_weights() -> None:
    norms = np.array([[2.0], [3.0], [5.0]])
    expected = [
        np.sqrt(sum((CONSUMER[unit, k] * norms[unit, 0]) ** 2 for k in range(4))) for unit in range(3)
    ]
    assert score("wanda", input_norms=(norms,)) == pytest.approx(expected)


def test_reconstruction_is_greedy_least_squares() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 400)) + 0.8 * rng.normal(size=(1, 400))  # 6 units of two columns
    weight = rng.normal(size=(3, 12))
    second = inputs @ inputs.T / 400
    layer = Layer(weight.reshape(3, 6, 2), second)
    group = Group((weight.T.reshape(6, -1),), 1, rng, layers=(layer,))
    scores = rank(criteria.choose("reconstruction", damping=1e-9), group)

    wanted = weight @ inputs
    energy, kept = np.square(wanted).sum(), list(range(6))
    for _ in range(5):
        losses = {unit: _loss(inputs, wanted, [u for u in kept if u != unit]) / energy for unit in kept}
        unit = min(losses, key=losses.__getitem__)
        assert scores[unit] == pytest.approx(losses[unit], rel=1e-5)  # damped by 1e-9
        kept.remove(unit)
    assert scores[kept[0]] == max(scores)


def _loss(inputs: np.ndarray, wanted: np.ndarray, units: list[int]) -> float:
    rows = inputs[[2 * unit + k for unit in units for k in (0, 1)]]
    fitted = np.linalg.lstsq(rows.T, wanted.T, rcond=None)[0]
    return float(np.square(wanted.T - rows.T @ fitted).sum())


def test_sparsegpt_scores_by_the_inverse_of_the_second_moments() -> None:
    rng = np.random.default_rng(1)
    inputs, weight = rng.normal(size=(5, 50)), rng.normal(size=(2, 5))
    second = inputs @ inputs.T / 50
    damped = second + 0.01 * np.trace(second) / 5 * np.eye(5)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    group = Group((), 0, rng, weight=weight, second=second)
    expected = (weight / np.diag(factor)) ** 2
    assert rank(criteria.choose("sparsegpt"), group) == pytest.approx(expected)
