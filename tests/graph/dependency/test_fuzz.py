"""Removed equals masked on random graphs over all families of rules; benchmarks/dependency_fuzz.py runs more."""

from functools import partial

import pytest

from mlcompress.graph import dependency
from tests.graph.dependency.grow import grow
from tests.graph.dependency.oracle import check, check_two_steps

SOFT = (34, 35, 43, 50)
"""Seeds whose graphs have channels behind a normalisation."""


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs(seed: int) -> None:
    check(grow(seed), seed=seed, batches=(2,))


@pytest.mark.parametrize("seed", range(30, 36))
def test_random_graphs_in_two_steps(seed: int) -> None:
    check_two_steps(partial(grow, seed), seed)


@pytest.mark.parametrize("seed", SOFT)
def test_random_graphs_with_norms(seed: int) -> None:
    model = grow(seed)
    assert any(family.soft for family in dependency.analyse(model).families)
    check(model, seed=seed, soft=True, batches=(2,))


def test_random_graphs_have_much_to_remove() -> None:
    """The fuzz would be vacuous if everything froze: some graphs must have several families in their body."""
    found = [len(dependency.analyse(grow(seed)).families) for seed in range(30)]
    assert sum(count >= 3 for count in found) >= 15
