"""Scores against numbers worked out by hand: two tensors, three units."""

import numpy as np
import pytest

from mlcompress.prune.criteria import Group, criteria

PRODUCER = np.array([[3.0, 4.0], [0.0, 1.0], [-6.0, 8.0]])
CONSUMER = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3.0], [-2.0, 0.0, 0.0, 0.0]])


def score(name: str, seed: int = 0) -> list[float]:
    group = Group((PRODUCER, CONSUMER), first=1, rng=np.random.default_rng(seed))
    return [round(float(value), 9) for value in criteria.bind(criteria.choose(name))(group)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l2", [(5 + 2) / 2, (1 + 3) / 2, (10 + 2) / 2]),
        ("l1", [(7 + 4) / 2, (1 + 3) / 2, (14 + 2) / 2]),
        ("l2_first", [5.0, 1.0, 10.0]),
        ("l1_first", [7.0, 1.0, 14.0]),
    ],
)
def test_magnitudes(name: str, expected: list[float]) -> None:
    assert score(name) == expected


def test_random_is_seeded() -> None:
    assert score("random", seed=1) == score("random", seed=1) != score("random", seed=2)


def test_every_criterion_gives_one_finite_score_a_unit() -> None:
    for name in criteria:
        values = criteria.bind(criteria.choose(name))(
            Group((PRODUCER, CONSUMER), 1, np.random.default_rng(0))
        )
        assert values.shape == (3,)
        assert np.isfinite(values).all()
