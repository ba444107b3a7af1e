"""A function is a method; its keyword-only arguments are its recipe options.

Positional parameters are what the stage supplies, keyword-only parameters are what a recipe may set. Only the
annotations of the latter are resolved, so that a schema never needs torch.

    criteria = Registry("criterion")

    @criteria
    def taylor(weight, grad, *, order: Annotated[int, Field(ge=1, le=2)] = 1):
        '''Squared sum of weight times gradient (Molchanov et al. 2019).'''

A recipe names it as `taylor` or `{name: taylor, order: 2}`; `criteria.bind(choice)` returns the function with
its options filled in.
"""

import inspect
import operator
import typing
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model


class Choice(BaseModel):
    """A method chosen in a recipe: its name, and its options as further fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str

    def options(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"}


class Registry:
    """Named functions of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._functions: dict[str, Callable[..., Any]] = {}
        self._schemas: dict[str, type[Choice]] = {}

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register `function` under its own name (a trailing underscore is dropped)."""
        name = function.__name__.rstrip("_")
        if name in self._functions:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        if not function.__doc__:
            raise ValueError(f"{self.kind} {name!r} has no docstring")
        self._functions[name] = function
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._functions[name]

    def summary(self, name: str) -> str:
        """First paragraph of the docstring, on one line."""
        text = inspect.getdoc(self._functions[name]) or ""
        return " ".join(text.split("\n\n")[0].split())

    def schema(self, name: str) -> type[Choice]:
        """The options of one method as a pydantic model."""
        if name not in self._schemas:
            self._schemas[name] = self._make_schema(name)
        return self._schemas[name]

    def _make_schema(self, name: str) -> type[Choice]:
        function = self._functions[name]
        fields: dict[str, Any] = {"name": (Literal[name], name)}
        hints = _keyword_hints(function)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (hints[parameter.name], default)
        return create_model(f"{self.kind}_{name}", __base__=Choice, __doc__=self.summary(name), **fields)

    def annotation(self) -> Any:
        """A type for a recipe field: `name` or `{name: ..., options...}`."""
        models = [self.schema(name) for name in self]
        if len(models) == 1:
            return Annotated[models[0], BeforeValidator(_spell_out)]
        union: Any = reduce(operator.or_, models)
        return Annotated[union, Field(discriminator="name"), BeforeValidator(_spell_out)]

    def choose(self, name: str, **options: Any) -> Choice:
        """The method `name` with its default options, or those given."""
        return self.schema(name).model_validate({"name": name, **options})

    def bind(self, choice: Choice) -> Callable[..., Any]:
        """The chosen function with its options filled in."""
        return partial(self._functions[choice.name], **choice.options())


def _spell_out(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _keyword_hints(function: Callable[..., Any]) -> dict[str, Any]:
    names = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    wanted = {name: hint for name, hint in inspect.get_annotations(function).items() if name in names}
    holder = type("holder", (), {"__annotations__": wanted})
    return typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}), include_extras=True)
