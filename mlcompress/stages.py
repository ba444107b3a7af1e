"""The stages by name. Every stage folder has `recipe.py` (its schema) and `run.py` (its work)."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlcompress.context import Change, Context
from mlcompress.recipe.sections import Shared

if TYPE_CHECKING:
    import onnx_ir as ir

NAMES = ("distill", "prune", "quantize")
"""In the order of a chain."""


@dataclass(frozen=True)
class Stage:
    """One transform: how its recipe is validated, and what does the work."""

    name: str
    schema: type[Shared]

    def must_not_be_slower(self, recipe: Any) -> bool:
        """Integers that lose time are of no use to anyone; channels that go may buy size alone."""
        return self.name == "quantize" and bool(recipe.times_its_target)

    def check(self, model: "ir.Model", recipe: Any, context: Context) -> list[str]:
        """Raise what `run` would raise before its work begins, for a dry run; what it would do, in lines."""
        first: Callable[..., list[str] | None] | None = getattr(self._module(), "check", None)
        return [] if first is None else first(model, recipe, context) or []

    def run(self, model: "ir.Model", recipe: Any, context: Context) -> "tuple[ir.Model, Change]":
        """Transform `model`, which may be changed in place."""
        work: Callable[..., tuple[ir.Model, Change]] = self._module().run
        return work(model, recipe, context)

    def _module(self) -> Any:
        return importlib.import_module(f"mlcompress.{self.name}.run")


def find(name: str) -> Stage:
    """The stage called `name`; its working code is not imported yet."""
    module = importlib.import_module(f"mlcompress.{name}.recipe")
    return Stage(name, getattr(module, f"{name.capitalize()}Recipe"))
