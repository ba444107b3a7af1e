"""Registries are documented: every method says where it comes from and what it does, and the page is current."""

import re
from pathlib import Path

import pytest

from mlcompress import methods
from tests.conftest import ROOT

ALL = [(kind, name) for kind in methods.REGISTRIES for name in methods.registry(kind)]


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == methods.markdown(), "renew it with `make docs`"


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_method_is_named_by_a_test(kind: str, name: str) -> None:
    word = re.compile(rf"\b{name}\b")
    tests = [path.read_text(encoding="utf-8") for path in Path(ROOT / "tests").rglob("test_*.py")]
    assert sum(bool(word.search(text)) for text in tests if "def test_every_method_is_named" not in text) >= 1


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_options_have_bounds_and_defaults(kind: str, name: str) -> None:
    for option in next(row for row in methods.describe(kind) if row["name"] == name)["options"]:
        assert option["default"] is not None
        assert option["type"] != "any"
