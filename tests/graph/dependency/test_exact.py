"""Removed equals masked, on nets that each hold one peculiarity."""

import pytest

from tests.graph.dependency.nets import NETS
from tests.graph.dependency.oracle import check


@pytest.mark.parametrize("name", NETS)
def test_removed_equals_masked(name: str) -> None:
    check(NETS[name]())
