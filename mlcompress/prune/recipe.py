"""The `prune` section of a recipe."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlcompress.prune.criteria import criteria
from mlcompress.recipe.finetune import Finetune
from mlcompress.recipe.sections import Count, Section, Shared, named, refuse_unused


class PruneSchedule(Section):
    """oneshot: everything at once. iterative: in equal steps, each followed by fine-tuning if there is
    any."""

    name: Literal["oneshot", "iterative"] = "oneshot"
    steps: Count = Field(5, description="iterative only")

    @model_validator(mode="after")
    def _own_options(self) -> "PruneSchedule":
        return refuse_unused(self, {"steps": self.name == "iterative"})

    @property
    def count(self) -> int:
        """Steps of this schedule."""
        return self.steps if self.name == "iterative" else 1


class PruneSection(Section):
    """What to remove, how to choose it, and how to recover."""

    granularity: Literal["channel", "element"] = Field(
        "channel",
        description="channel: every removable axis (channels, hidden and RNN units), smaller and faster. "
        "element: single weights become zero, which changes neither speed nor plain file size",
    )
    criterion: criteria.annotation() = Field(  # type: ignore[valid-type]
        criteria.choose("l2"), description="`mlcompress list criteria`"
    )
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="share of units to remove")
    threshold: Annotated[float, Field(ge=0)] | None = Field(
        None, description="remove units that score below this"
    )
    scope: Literal["global", "local"] = Field(
        "global", description="rank all units together, or each family alone"
    )
    round_to: Count | None = Field(
        None,
        description="keep a multiple of this many channels; default 16 for convolutions "
        "(narrow ones: the largest power of two up to a quarter), 1 elsewhere",
    )
    schedule: Annotated[PruneSchedule, BeforeValidator(named)] = PruneSchedule()
    finetune: Finetune | None = Field(None, description="omit for none")
    inexact: Literal["refuse", "allow"] = Field(
        "refuse", description="allow: also channels behind a normalisation whose statistics change with them"
    )

    @model_validator(mode="after")
    def _one_amount(self) -> "PruneSection":
        if (self.ratio is None) == (self.threshold is None):
            raise ValueError("say how much to remove: `ratio: 0.5` or `threshold: 0.01`, one of them")
        if self.threshold is not None and self.schedule.name == "iterative":
            raise ValueError("a threshold is reached in one step; leave `schedule` out, or give a `ratio`")
        is_channel = self.granularity == "channel"
        return refuse_unused(self, {"round_to": is_channel, "inexact": is_channel})


class PruneRecipe(Shared):
    """A recipe of `mlcompress prune`."""

    prune: PruneSection

    @model_validator(mode="after")
    def _an_epoch_for_each_step(self) -> "PruneRecipe":
        steps = self.prune.schedule.count
        if self.prune.finetune is not None and self.train.epochs < steps:
            raise ValueError(
                f"train.epochs: {self.train.epochs} epochs for {steps} pruning steps; give one each"
            )
        return self

    def needs(self) -> dict[str, bool]:
        """Fine-tuning needs training data, with labels where there is no teacher. Without it calibration
        data is used where it is given."""
        finetune = self.prune.finetune
        return {"calibration": False} if finetune is None else {"train": finetune.teacher == "none"}
