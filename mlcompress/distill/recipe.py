"""Schema of `distill:` recipes."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from mlcompress.recipe.sections import Count, Section, Shared
from mlcompress.train.losses import annotation, entry, is_labelled


def _refuse(value: Any) -> Any:
    if value is not None:
        raise ValueError("is not available in this version")


Refused = Annotated[Any, BeforeValidator(_refuse), SkipJsonSchema()]
"""A key of the recipe language that this version cannot do: refused by name, never ignored."""


class StudentSection(Section):
    """The graph to train: derived from the teacher's own graph, or a checkpoint."""

    width: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the channels or units that every layer keeps"
    )
    round_to: Count | None = Field(
        None,
        description="widths become multiples of it; default: 16, or the largest power of two <= n/4",
    )
    weights: Literal["inherit", "fresh"] = Field(
        "inherit",
        description="inherit: the units with the largest L2 norm, with their weights; fresh: random",
    )
    file: str | None = Field(None, description="a checkpoint with the teacher's inputs and outputs")
    depth: Refused = None
    factory: Refused = None
    checkpoint: Refused = None

    @model_validator(mode="after")
    def _one_source(self) -> "StudentSection":
        derived = sorted(self.model_fields_set & {"width", "round_to", "weights"})
        if self.file is not None and derived:
            raise ValueError(f"`file` and `{derived[0]}` exclude each other: a file is trained as it is")
        return self


class TeachersSection(Section):
    """How several teachers are combined."""

    combine: Literal["mean"] = Field("mean", description="average of their class probabilities")


def _student(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class DistillSection(Section):
    """Train a smaller student to answer as the teacher does (Hinton et al. 2015)."""

    student: Annotated[StudentSection, BeforeValidator(_student)] = StudentSection()
    losses: list[annotation()] = Field(  # type: ignore[valid-type]
        [entry("soft", weight=0.9), entry("hard", weight=0.1)],
        min_length=1,
        description="summed with their weights",
    )
    teachers: TeachersSection = TeachersSection()
    cache: bool | str = Field(
        True,
        description="keep teacher outputs by sample id, for this run or in a folder; unused with augment",
    )
    generations: Refused = None
    sweep: Refused = None


class DistillRecipe(Shared):
    """`mlcompress distill`: the shared sections and `distill`."""

    distill: DistillSection = DistillSection()

    def needs(self) -> dict[str, bool]:
        """Training data; with labels where a loss reads them."""
        return {"train": any(is_labelled(loss.name) for loss in self.distill.losses)}
