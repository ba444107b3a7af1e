"""Schema of `distill.teachers`: more teachers than one, and how each differs from the first."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlcompress.recipe.base import Count, Positive, Section, refuse_unused
from mlcompress.recipe.sections import ModelSection, Transform


class TeacherEntry(Section):
    """One teacher by its file; what is left out is as for TEACHER."""

    file: str = Field(description="TEACHER, one of -t, or one more teacher; a checkpoint of any kind")
    inputs: dict[str, str | list[str]] | None = Field(
        None, description="this teacher's input: array name (table: column names) of data.train"
    )
    transforms: list[Transform] | None = Field(None, description="in place of those of data.train")
    size: Count | None = Field(None, description="images: side in pixels")
    outputs: dict[str, str] = Field({}, description="the student's output: this teacher's name of it")
    classes: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=2, description="this teacher's number of each class, in the student's order"
    )
    model: ModelSection | None = Field(
        None, description="as `model` of the recipe, where this checkpoint needs another"
    )


class TeachersSection(Section):
    """Several teachers: how they are combined, and how each differs."""

    combine: Literal["mean", "weighted", "confidence", "learned"] = Field(
        "mean",
        description="mean: average of the class probabilities. weighted: with `weights`. confidence: each"
        " sample listens most to the teacher with the smallest cross-entropy, or entropy without labels."
        " learned: the weights by which held-out labels are most likely",
    )
    weights: list[Positive] = Field(
        [], description="weighted: one for TEACHER, each -t, and each more of `each`"
    )
    each: list[TeacherEntry] = Field([], description="teachers that differ from TEACHER")

    @model_validator(mode="after")
    def _fit(self) -> "TeachersSection":
        files = [entry.file for entry in self.each]
        twice = [name for name in dict.fromkeys(files) if files.count(name) > 1]
        if twice:
            raise ValueError(f"each: {twice[0]} is named twice; put its keys into one entry")
        if self.combine == "weighted" and not self.weights:
            raise ValueError("weighted needs `weights`, one for each teacher")
        return refuse_unused(self, {"weights": self.combine == "weighted"})
