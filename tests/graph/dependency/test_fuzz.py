"""Removed equals masked on random graphs."""

import pytest

from mlcompress.graph import dependency
from tests.graph.dependency.grow import grow
from tests.graph.dependency.oracle import check


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs(seed: int) -> None:
    check(grow(seed), seed=seed, batches=(2,))


def test_random_graphs_have_much_to_remove() -> None:
    """The fuzz would be vacuous if everything froze: some graphs must have several families in their body."""
    found = [len(dependency.analyse(grow(seed)).families) for seed in range(30)]
    assert sum(count >= 3 for count in found) >= 15
