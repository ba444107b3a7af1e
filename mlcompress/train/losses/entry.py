"""The registry of losses, and how a recipe writes one: its name, its options, the keys that all have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, Union, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from mlcompress.recipe.base import Count, Section
from mlcompress.registry import Choice, Registry

losses = Registry("loss")

LABELS = frozenset({"labels", "target"})
LOGITS = frozenset({"student_logits", "teacher_logits"})
TAUGHT = frozenset({"teacher_logits", "teacher", "teacher_features", "target_features", "teacher_embedding"})
"""Parameters that come from the teacher."""
FEATURES = frozenset({"student", "student_features", "adapted", "student_embedding"})
"""Parameters of losses that may name any tensor of a graph."""
MASKED = frozenset({"mask", "student_embedding"})
"""Parameters of losses that may leave padding out."""
HEADS = frozenset({"head_logits"})
"""Parameters of losses with classifiers inside the student."""
NAMED = frozenset({"hint", "simkd"})
"""Losses that mean nothing without named tensors."""


def weighted(weight: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a loss function the default weight of its publication, which belongs to its normalisation."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.weight = weight  # type: ignore[attr-defined]
        return function

    return mark


class Ramp(Section):
    """A weight that goes linearly `from` one number `to` another, which it has from epoch number `epochs` on.

    In epoch e = 1, 2, ...: from + (to - from) * min(1, e / epochs).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)
    start: Annotated[float, Field(ge=0)] = Field(0.0, alias="from", description="before the first epoch")
    to: Annotated[float, Field(ge=0)] = Field(description="from epoch number `epochs` on")
    epochs: Count = Field(description="how many it takes")

    def at(self, epoch: int) -> float:
        """The weight in `epoch`, counted from 1."""
        return self.start + (self.to - self.start) * min(1.0, epoch / self.epochs)

    @model_validator(mode="after")
    def _counts(self) -> Ramp:
        if self.start == 0 == self.to:
            raise ValueError("a weight of 0 is no loss; leave the loss out")
        return self


def _kind(weight: Any) -> str:
    return "ramp" if isinstance(weight, (dict, Ramp)) else "number"


Weight = Annotated[
    Annotated[float, Field(gt=0), Tag("number")] | Annotated[Ramp, Tag("ramp")], Discriminator(_kind)
]


class LossEntry(Choice):
    """One entry of `losses`: the method, its options, and the keys that every loss has."""

    weight: Weight = Field(1.0, description="factor in the sum: a number, or {from: 0, to: 1, epochs: 5}")
    output: str | None = Field(None, description="model output to look at; the first by default")
    classes: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=2, description="the teacher's number of each class, in the student's order"
    )
    teachers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="of several teachers only these; TEACHER is 0, the first -t 1"
    )

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the loss function."""
        common = {"name", *MaskedEntry.model_fields, *HeadsEntry.model_fields}
        return {key: getattr(self, key) for key in type(self).model_fields if key not in common}

    def weight_at(self, epoch: int) -> float:
        """The factor in `epoch`, counted from 1."""
        return self.weight.at(epoch) if isinstance(self.weight, Ramp) else self.weight


class FeatureEntry(LossEntry):
    """A loss that may look at any tensor of the two graphs."""

    teacher: str | None = Field(None, description="tensor of the teacher's graph; `output` by default")
    student: str | None = Field(None, description="tensor of the student's graph; as `teacher` by default")

    @model_validator(mode="after")
    def _one_place(self) -> FeatureEntry:
        if self.student is not None and self.teacher is None:
            raise ValueError("`student` names a tensor; name the teacher's too, as `teacher: TENSOR`")
        if self.teacher is None and self.name in NAMED:
            raise ValueError(
                f"{self.name} compares tensors inside the graphs; name them: `teacher: NAME, student: NAME`"
            )
        if self.teacher is not None and self.output is not None:
            raise ValueError("`output` and `teacher` exclude each other: one place to look at")
        if self.teacher is not None and self.classes is not None:
            raise ValueError("`classes` maps an output; a tensor inside the graph has none")
        return self


class MaskedEntry(FeatureEntry):
    """A loss on sequences, which may leave out padding."""

    mask: str | None = Field(None, description="model input [batch, tokens] that is 0 at padding")


class HeadsEntry(LossEntry):
    """A loss of classifiers on tensors inside the student, which its own output teaches."""

    heads: list[str] = Field(min_length=1, description="tensors of the student that get a classifier each")
    deepest: str | None = Field(None, description="tensor of the student that the heads' features go to")
    mask: str | None = Field(None, description="model input [batch, tokens] that is 0 at padding")

    @model_validator(mode="after")
    def _own(self) -> HeadsEntry:
        if twice := {name for name in self.heads if self.heads.count(name) > 1}:
            raise ValueError(f"heads: {min(twice)} is named twice; name each tensor once")
        if self.deepest in self.heads:
            raise ValueError(f"{self.deepest} is `deepest` and one of `heads`; what it teaches is shallower")
        if self.deepest is None and self.options()["beta"] != losses.choose(self.name).options()["beta"]:
            raise ValueError("`beta` weighs the distance to a tensor; name it: `deepest: TENSOR`")
        for key in ("classes", "teachers"):
            if getattr(self, key) is not None:
                raise ValueError(f"{self.name} asks no teacher but the student itself; leave `{key}` out")
        return self


def needs(name: str) -> frozenset[str]:
    """What the loss `name` must be given: its positional parameters."""
    parameters = inspect.signature(losses[name]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def is_labelled(entry: LossEntry) -> bool:
    """Whether the loss reads labels."""
    if isinstance(entry, HeadsEntry) and entry.options()["alpha"] == 1:
        return False
    return bool(needs(entry.name) & LABELS)


def refuse_heads_alone(entries: Sequence[LossEntry]) -> None:
    """Raises ValueError where only heads learn, and nothing teaches the output that they learn from."""
    if entries and all(isinstance(entry, HeadsEntry) for entry in entries):
        raise ValueError(
            f"losses: {entries[0].name} teaches tensors inside the student, and nothing teaches its output;"
            " add `hard` or `soft`"
        )


def entry(name: str, **keys: Any) -> LossEntry:
    """A validated loss entry, for defaults in code."""
    return _entry_schema(name)(name=name, **keys)


def annotation() -> Any:
    """The type of one recipe entry: `soft`, or `{name: soft, weight: 0.9, temperature: 4}`."""
    union: Any = Union[tuple(_entry_schema(name) for name in losses)]  # noqa: UP007 - built at run time
    return Annotated[union, Field(discriminator="name"), BeforeValidator(_spell_out)]


@cache
def _entry_schema(name: str) -> type[LossEntry]:
    kind: type[LossEntry] = FeatureEntry if needs(name) & FEATURES else LossEntry
    kind = MaskedEntry if needs(name) & MASKED else kind
    kind = HeadsEntry if needs(name) & HEADS else kind
    common = kind.model_fields["weight"]
    weight = Field(getattr(losses[name], "weight", common.default), description=common.description)
    bases: Any = (losses.schema(name), kind)  # in this order, so that `name` is the schema's literal
    made = create_model(f"loss_{name}", __base__=bases, __doc__=losses.summary(name), weight=(Weight, weight))
    return cast("type[LossEntry]", made)


def _spell_out(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value
