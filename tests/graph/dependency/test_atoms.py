"""Connected components against a plain union-find."""

import numpy as np
import pytest

from mlcompress.graph.dependency.atoms import Atoms


def plain(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    root = list(range(count))

    def find(one: int) -> int:
        while root[one] != one:
            one = root[one]
        return one

    for one, other in pairs:
        low, high = sorted((find(one), find(other)))
        root[high] = low
    return [find(one) for one in range(count)]


@pytest.mark.parametrize("seed", range(10))
def test_components_are_those_of_a_plain_union_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = Atoms()
    axis = atoms.fresh(200)
    edges = rng.integers(0, 200, (rng.integers(0, 200), 2))
    for one, other in edges:
        atoms.unify(axis[[one]], axis[[other]])
    assert atoms.solve().root.tolist() == plain(200, [tuple(edge) for edge in edges.tolist()])


def test_a_long_chain_is_one_component() -> None:
    atoms = Atoms()
    axis = atoms.fresh(10_000)
    order = np.random.default_rng(0).permutation(10_000)
    atoms.unify(axis[order[:-1]], axis[order[1:]])
    assert not atoms.solve().root.any()


def test_untracked_and_unequal_axes_freeze() -> None:
    atoms = Atoms()
    one, two, three, four = (atoms.fresh(3) for _ in range(4))
    atoms.unify(one, None)
    atoms.unify(two, three[:2])
    atoms.unify(four, np.array([-1, four[1], four[2]]))
    classes = atoms.solve()
    assert classes.of(one) is None
    assert classes.of(two) is None
    assert classes.of(three).tolist() == [-1, -1, three[2]]
    assert classes.of(four).tolist() == [-1, four[1], four[2]]


def test_freezing_spreads_over_the_component() -> None:
    atoms = Atoms()
    one, two = atoms.fresh(3), atoms.fresh(3)
    atoms.unify(one, two)
    atoms.freeze(two[1:2])
    assert atoms.solve().of(one).tolist() == [0, -1, 2]


def test_rows_go_together() -> None:
    atoms = Atoms()
    axis = atoms.fresh(6)
    assert atoms.unify_rows(axis.reshape(2, 3).T).tolist() == [0, 1, 2]
    assert atoms.solve().root.tolist() == [0, 1, 2, 0, 1, 2]


def test_axes_of_length_one_are_not_tracked() -> None:
    assert Atoms().fresh(1) is None
