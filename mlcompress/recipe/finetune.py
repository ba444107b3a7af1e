"""How a compressed graph is trained towards its original: prune's `finetune`, quantize's `qat`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlcompress.recipe.base import Fraction, Section, refuse_unused


class Finetune(Section):
    """Train what is left, with `train` settings, to answer as the original did."""

    teacher: Literal["original", "none"] = Field("original", description="none: labels only")
    temperature: Annotated[float, Field(gt=0)] = Field(4.0, description="divides the logits of both")
    soft: Fraction = Field(
        0.9, description="weight of the teacher's answers; labels have the rest, where there are any"
    )

    @model_validator(mode="after")
    def _own_options(self) -> "Finetune":
        return refuse_unused(self, dict.fromkeys(("temperature", "soft"), self.teacher == "original"))
