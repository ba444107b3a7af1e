"""Schema of `distill:` recipes."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from mlcompress.distill.grid import trials
from mlcompress.distill.recipe_teachers import TeachersSection
from mlcompress.recipe.base import Count, Section, refuse_unused
from mlcompress.recipe.sections import Shared
from mlcompress.train.losses import annotation, entry, is_labelled, refuse_heads_alone


class StudentSection(Section):
    """The graph to train: derived from the teacher's own graph, or a checkpoint."""

    width: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="share of the channels or units that every layer keeps; 0.5 where `depth` and `units` are"
        " not given, else 1",
    )
    depth: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the residual layers that stay, evenly spread from the first to the last"
    )
    units: dict[str, Count] = Field(
        {}, description="how many units a family keeps, by its name in `mlcompress inspect --groups`"
    )
    round_to: Count | None = Field(
        None,
        description="widths become multiples of it; default: 16, or the largest power of two <= n/4",
    )
    weights: Literal["inherit", "fresh"] = Field(
        "inherit",
        description="inherit: the units with the largest L2 norm, with their weights; fresh: random",
    )
    reconstruct: bool = Field(
        True,
        description="fit inherited layers that lost inputs by least squares to what they gave, untrained",
    )
    file: str | None = Field(None, description="a checkpoint with the teacher's inputs and outputs")
    factory: str | None = Field(
        None,
        description="pkg.module:function that builds a torch module of the teacher's inputs, in order",
    )
    kwargs: dict[str, Any] = Field({}, description="arguments of the factory")
    checkpoint: str | None = Field(None, description="first weights of the factory's module")

    @model_validator(mode="after")
    def _one_source(self) -> "StudentSection":
        fields = type(self).model_fields
        keys = ("depth", "reconstruct", "round_to", "units", "weights", "width")
        derived = [key for key in keys if getattr(self, key) != fields[key].default]
        if self.file is not None and derived:
            raise ValueError(f"`file` and `{derived[0]}` exclude each other: a file is trained as it is")
        if self.factory is not None and (derived or self.file is not None):
            other = derived[0] if derived else "file"
            raise ValueError(f"`factory` and `{other}` exclude each other: a module is trained as it is")
        if self.weights == "fresh" and not self.reconstruct:
            raise ValueError("reconstruct would have no effect with `weights: fresh`; leave it out")
        return refuse_unused(self, dict.fromkeys(("kwargs", "checkpoint"), self.factory is not None))

    @property
    def share(self) -> float:
        """Of the units of each family that `units` does not name."""
        if self.width is not None:
            return self.width
        return 1.0 if self.depth < 1 or self.units else 0.5


def _student(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class SweepSection(Section):
    """Values of loss options; every combination is trained, and the best by the validation metric is kept.

    Keys are options, set on every loss that has them, or `LOSS.OPTION`: `{temperature: [2, 4], soft.weight:
    [0.5, 0.9]}`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Annotated[list[float], Field(min_length=1)]]
    epochs: Count | None = Field(
        None, description="of each trial; the best is then trained again for train.epochs"
    )

    @property
    def values(self) -> dict[str, list[float]]:
        """Values by key, in the order of the recipe."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _something(self) -> "SweepSection":
        if not self.values:
            raise ValueError("nothing to vary; list values of an option: `temperature: [2, 4, 8]`")
        return self


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
    generations: Count = Field(
        1,
        description="students in a row, each taught by the one before, by default of the teacher's own shape"
        " and with fresh weights; the best is kept",
    )
    sweep: SweepSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_architecture(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("generations", 1) == 1:
            return value
        student = value.get("student", {"width": 1.0})
        if not isinstance(student, dict) or {"weights", "file", "factory", "reconstruct"} & student.keys():
            return value
        return {**value, "student": {**student, "weights": "fresh"}}

    @model_validator(mode="after")
    def _output_learns(self) -> "DistillSection":
        refuse_heads_alone(self.losses)
        return self

    @model_validator(mode="after")
    def _whole_grid(self) -> "DistillSection":
        if self.sweep is not None:
            trials(self.losses, self.sweep.values)
        return self


class DistillRecipe(Shared):
    """`mlcompress distill`: the shared sections and `distill`."""

    distill: DistillSection = DistillSection()

    @model_validator(mode="after")
    def _something_to_keep(self) -> "DistillRecipe":
        if self.train.freeze and self.distill.student.weights == "fresh":
            raise ValueError(
                "train.freeze: would keep random weights with `student: {weights: fresh}`; drop one"
            )
        return self

    def needs(self) -> dict[str, bool]:
        """Training data; with labels where a loss reads them."""
        return {"train": any(is_labelled(loss) for loss in self.distill.losses)}
