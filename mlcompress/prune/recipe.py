"""The `prune` section of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mlcompress.prune.allocation import allocations
from mlcompress.prune.criteria import GRADIENTS, criteria, measured, needs, refusal
from mlcompress.prune.layer_scores import layer_scores
from mlcompress.prune.regularize import regularizers
from mlcompress.prune.schedules import Step, schedules
from mlcompress.recipe.base import Count, Section, refuse_unused
from mlcompress.recipe.finetune import Finetune
from mlcompress.recipe.sections import Shared
from mlcompress.registry import Choice
from mlcompress.train.losses import annotation as loss_annotation
from mlcompress.train.losses import is_labelled, refuse_heads_alone

UNITS = ("channel", "head", "hidden")
"""Granularities that remove units of families."""
ZEROS = ("element", "n:m", "kernel")
"""Granularities that set weights to zero."""
Share = Annotated[float, Field(gt=0, lt=1)]


class Target(Section):
    """What is to be left, as a share of what there was; one of them."""

    macs: Share | None = Field(None, description="multiply-accumulates at the shapes of `measure`")
    params: Share | None = Field(None, description="trained numbers")
    size: Share | None = Field(None, description="bytes of the file")
    latency: Share | None = Field(None, description="measured on the first provider")

    @model_validator(mode="after")
    def _one(self) -> "Target":
        if len(self.model_fields_set) != 1:
            raise ValueError("one target, such as `{macs: 0.5}`")
        return self

    @property
    def chosen(self) -> tuple[str, float]:
        """Its name and share."""
        name = next(iter(self.model_fields_set))
        return name, float(getattr(self, name))


class PruneFinetune(Finetune):
    """Train what is left, with `train` settings, to answer as the original did."""

    losses: list[loss_annotation()] | None = Field(  # type: ignore[valid-type]
        None,
        min_length=1,
        description="in place of `soft` and `temperature`: `mlcompress list losses`; hint compares tensors",
    )
    regularize: regularizers.annotation() | None = Field(  # type: ignore[valid-type]
        None, description="train towards sparsity before the first cut: `mlcompress list regularizers`"
    )

    @model_validator(mode="after")
    def _one_way_to_learn(self) -> "PruneFinetune":
        names = [entry.name for entry in self.losses or ()]
        if "simkd" in names:
            raise ValueError("losses: simkd gives the model another head, which pruning must not; use hint")
        refuse_heads_alone(self.losses or ())
        given = self.losses is not None
        return refuse_unused(self, dict.fromkeys(("teacher", "temperature", "soft"), not given))


class PruneSection(Section):
    """What to remove, how to choose it, and how to recover."""

    granularity: Literal["channel", "head", "hidden", "layer", "element", "n:m", "kernel"] = Field(
        "channel",
        description="channel: every removable axis (channels, heads, hidden and RNN units), smaller and "
        "faster. head: attention heads only. hidden: the width that layers are normalised over, which needs "
        "`inexact: allow`. layer: whole residual branches. "
        "element: single weights become zero, which changes neither speed nor plain file size. "
        "n:m: N of M successive inputs stay, see `pattern`. kernel: k x k slices of convolutions become zero",
    )
    pattern: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}:[1-9]\d{0,3}$")] = Field(
        "2:4", description="of granularity n:m: how many of how many successive inputs of a row stay"
    )
    criterion: criteria.annotation() = Field(  # type: ignore[valid-type]
        criteria.choose("l2"), description="`mlcompress list criteria`"
    )
    layer_score: layer_scores.annotation() = Field(  # type: ignore[valid-type]
        layer_scores.choose("influence"),
        description="which residual branches matter: `mlcompress list layer_scores`",
    )
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="share of units to remove")
    threshold: Annotated[float, Field(ge=0)] | None = Field(
        None, description="remove units that score below this"
    )
    target: Target | None = Field(
        None, description="what is to be left of macs, params, size or latency, reached as measured"
    )
    allocation: allocations.annotation() = Field(  # type: ignore[valid-type]
        allocations.choose("sensitivity"),
        description="how a target is shared out: `mlcompress list allocations`",
    )
    plan: str | None = Field(
        None, description="card (OUTPUT.json) of an earlier run whose widths are to be repeated"
    )
    scope: Literal["global", "local"] = Field(
        "global", description="rank all units together, or each family alone"
    )
    round_to: Count | None = Field(
        None,
        description="keep a multiple of this many channels; default 16 for convolutions "
        "(narrow ones: the largest power of two up to a quarter), 1 elsewhere",
    )
    schedule: schedules.annotation() = Field(  # type: ignore[valid-type]
        schedules.choose("oneshot"), description="`mlcompress list schedules`"
    )
    finetune: PruneFinetune | None = Field(None, description="omit for none")
    reconstruct: bool = Field(
        True,
        description="channel: fit what reads the removed units to what it gave before, by least squares on "
        "`data.calibration`, where there is one",
    )
    inexact: Literal["refuse", "allow"] = Field(
        "refuse", description="allow: also channels behind a normalisation whose statistics change with them"
    )
    storage: Literal["plain", "auto", "bitmask", "relative", "rice"] = Field(
        "plain",
        description="of weights with zeros. auto: whatever takes the fewest bytes in the file, decoded when "
        "it is loaded; neither faster nor slower",
    )

    @model_validator(mode="before")
    @classmethod
    def _rows_first(cls, given: Any) -> Any:
        """Wanda and SparseGPT choose in each layer alone unless the recipe says more."""
        if not isinstance(given, dict) or given.get("granularity") != "element" or given.get("ratio") is None:
            return given
        criterion = given.get("criterion")
        name = criterion.get("name") if isinstance(criterion, dict) else criterion
        return {"scope": "local", **given} if name in ("wanda", "sparsegpt") else given

    @model_validator(mode="after")
    def _one_amount(self) -> "PruneSection":
        amounts = ("ratio", "threshold", "target", "plan")
        given = [name for name in amounts if getattr(self, name) is not None]
        if self.granularity == "n:m":
            if given:
                raise ValueError(f"`pattern` says how much n:m removes; leave {given[0]} out")
            given = ["pattern"]
        if len(given) != 1:
            raise ValueError(
                "say how much to remove, by one of `ratio: 0.5`, `threshold: 0.01`, `target: {macs: 0.5}` "
                "and `plan: CARD`"
            )
        is_channel, is_layer = self.granularity in UNITS, self.granularity == "layer"
        if given[0] in ("target", "plan") and not is_channel:
            raise ValueError(f"{given[0]} belongs to whole channels; use `ratio` with {self.granularity}")
        if self.threshold is not None and self.schedule.name != "oneshot":
            raise ValueError("a threshold is reached in one step; leave `schedule` out, or give a `ratio`")
        if problem := self._mismatch():
            raise ValueError(problem)
        if self.granularity == "hidden" and self.inexact == "refuse":
            raise ValueError(
                "granularity hidden changes what layers are normalised over; add `inexact: allow`"
            )
        used = {
            "round_to": is_channel,
            "inexact": is_channel,
            "reconstruct": is_channel,
            "criterion": not is_layer,
            "layer_score": is_layer,
            "pattern": self.granularity == "n:m",
            "storage": self.granularity in ZEROS,
        }
        # A recipe whose target is replaced by a plan, to repeat it, need not drop its allocation.
        used |= {"scope": given[0] == "ratio" and not is_layer, "allocation": given[0] in ("target", "plan")}
        regularize = self.finetune.regularize if self.finetune is not None else None
        if regularize is not None and regularize.name == "group_lasso" and not is_channel:
            raise ValueError(
                f"finetune.regularize: group_lasso is for channels; use l1 with {self.granularity}"
            )
        if regularize is not None and is_layer:
            raise ValueError("finetune.regularize: layers go by layer_score; leave it out")
        return refuse_unused(self, used)

    def _mismatch(self) -> str | None:
        """What does not go with the granularity or the criterion."""
        name, (n, m) = self.criterion.name, self.n_of_m
        if self.granularity == "layer":
            return None
        if reason := refusal(name, self.granularity):
            return f"criterion {name} is not for granularity {self.granularity}: {reason}"
        if self.granularity == "n:m" and not n < m:
            return f"pattern {self.pattern}: N must be less than M, as in 2:4"
        if self.granularity == "n:m" and self.schedule.name != "oneshot":
            return "n:m is reached in one step; leave `schedule` out"
        if name == "movement" and self.finetune is None:
            return "criterion movement: training decides; add `finetune: {}`, or use l1"
        if name == "movement" and self.regularize is not None:
            return "criterion movement trains before the first cut by itself; leave `regularize` out"
        if (name, self.granularity, self.scope) == ("wanda", "element", "global") and self.ratio is not None:
            return "criterion wanda compares the weights of one output row; leave `scope: global` out"
        return None

    @property
    def n_of_m(self) -> tuple[int, int]:
        """How many of how many successive inputs stay."""
        n, m = self.pattern.split(":")
        return int(n), int(m)

    @property
    def regularize(self) -> Choice | None:
        """What training before the first cut is penalised with."""
        return None if self.finetune is None else self.finetune.regularize

    def steps(self, epochs: int) -> list[Step]:
        """The cuts of the schedule and the epochs after each, without those before the first cut."""
        return list(schedules.bind(self.schedule)(epochs - self.epochs_before(epochs)))

    def epochs_before(self, epochs: int) -> int:
        """Epochs of training towards sparsity, or of movement, before the first cut."""
        choice = self.regularize or (self.criterion if self.criterion.name == "movement" else None)
        return 0 if choice is None else max(1, round(choice.options()["share"] * epochs))

    def measured_on(self) -> tuple[str, ...]:
        """The data entries that the criterion can be measured on, the first choice first."""
        name = self.criterion.name
        if self.granularity == "layer" or not measured(name):
            return ()
        return ("train", "calibration") if needs(name) & GRADIENTS else ("calibration", "train")


class PruneRecipe(Shared):
    """A recipe of `mlcompress prune`."""

    prune: PruneSection

    @model_validator(mode="after")
    def _an_epoch_for_each_step(self) -> "PruneRecipe":
        if self.prune.finetune is None:
            return self
        if self.train.freeze and self.prune.criterion.name == "movement":
            raise ValueError("train.freeze: movement judges weights by their training; leave one of them out")
        epochs, before = self.train.epochs, self.prune.epochs_before(self.train.epochs)
        steps = len(self.prune.steps(epochs))
        if epochs - before < steps:
            told = f" after {before} before the first cut" if before else ""
            raise ValueError(
                f"train.epochs: {epochs - before} epochs{told} for {steps} pruning steps; give one each"
            )
        return self

    def needs(self) -> dict[str, bool]:
        """Fine-tuning needs training data, with labels where there is no teacher. Calibration data is used
        where it is given. Some criteria are measured on either."""
        finetune, sources = self.prune.finetune, self.prune.measured_on()
        found = {"calibration": False}
        if finetune is not None:
            labelled = any(is_labelled(entry) for entry in finetune.losses or ())
            found["train"] = labelled or finetune.teacher == "none"
        if sources:
            there = [name for name in sources if getattr(self.data, name) is not None]
            found |= {name: found.get(name, False) for name in there[:1]}
        if self.prune.granularity == "layer":
            found["calibration"] = False
        return found
