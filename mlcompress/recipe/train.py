"""Recipe section `train`: the same loop in every stage."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from mlcompress.recipe.base import Count, Fraction, Positive, Section, Threads, named, refuse_unused


class Optimizer(Section):
    """torch.optim's SGD (with Nesterov momentum), Adam or AdamW."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = Field(0.05, description="peak learning rate; 0.001 by default for adam and adamw")
    momentum: Fraction = Field(0.9, description="sgd only")
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="not on biases and norms")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="adam and adamw only")

    @model_validator(mode="before")
    @classmethod
    def _own_rate(cls, value: Any) -> Any:
        adaptive = isinstance(value, dict) and value.get("name") in ("adam", "adamw")
        return {"lr": 1e-3, **value} if adaptive else value

    @model_validator(mode="after")
    def _own_options(self) -> "Optimizer":
        return refuse_unused(self, {"momentum": self.name == "sgd", "betas": self.name != "sgd"})


class Schedule(Section):
    """Learning rate over the steps of the stage, after a linear warm-up."""

    name: Literal["constant", "cosine", "step", "onecycle"] = "cosine"
    warmup: Fraction = Field(0.05, description="share of all steps")
    milestones: list[Fraction] = Field(
        [0.5, 0.75], description="step: where the rate falls, as shares of all steps"
    )
    gamma: Positive = Field(0.1, description="step: factor at each milestone")

    @model_validator(mode="after")
    def _own_options(self) -> "Schedule":
        return refuse_unused(self, dict.fromkeys(("milestones", "gamma"), self.name == "step"))


class Replace(Section):
    """Put random tokens in the place of some: the teacher says what the new text means."""

    input: str = Field(description="model input [batch, tokens] that holds token numbers")
    mask: str = Field(description="model input that is 0 at padding")
    share: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.15, description="of the tokens; that of a text is uniform in 0 ... twice as much"
    )
    tokens: tuple[int, int] = Field(description="the numbers from the first on, below the second")

    @model_validator(mode="after")
    def _some(self) -> "Replace":
        if self.tokens[0] < 0 or self.tokens[0] >= self.tokens[1]:
            raise ValueError(f"tokens {list(self.tokens)} are none; write [LOWEST, HIGHEST + 1]")
        return self


class Augment(Section):
    """One random change of the training inputs; exactly one key is set."""

    flip: Literal["horizontal", "vertical"] | None = Field(None, description="mirror half of the images")
    shift: Count | None = Field(None, description="pad by this many pixels and crop at random")
    mixup: Positive | None = Field(None, description="alpha of the Beta distribution (Zhang et al. 2018)")
    splice: str | None = Field(
        None, description="input 0 at padding: join parts of two texts, without labels"
    )
    replace: Replace | None = Field(None, description="random tokens in the place of some")

    @model_validator(mode="after")
    def _one_key(self) -> "Augment":
        if len(self.model_fields_set) != 1:
            raise ValueError("one augmentation per list entry, such as `- {flip: horizontal}`")
        return self


class EarlyStop(Section):
    """Stop when the validation metric has not improved for `patience` epochs."""

    patience: Count = Field(3, description="epochs")


class Grow(Section):
    """Growing data: begin with a share of the samples and reach all of them after `epochs`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    start: Fraction = Field(0.25, alias="from", description="share of the samples in the first epoch")
    epochs: Count = Field(3, description="until all samples take part")


class TrainSection(Section):
    """Training, the same loop in every stage."""

    epochs: Count = Field(5, description="of the stage together; iterative steps share them")
    batch_size: Count = Field(128, description="samples of one step (times accumulate)")
    optimizer: Annotated[Optimizer, BeforeValidator(named)] = Optimizer()
    schedule: Annotated[Schedule, BeforeValidator(named)] = Schedule()
    augment: list[Augment] = Field([], description="random changes of the training inputs, in this order")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: mixed precision on an accelerator that has it, fp32 on the CPU"
    )
    ema: Fraction | None = Field(
        None, description="decay of an average of the weights, which is what is kept"
    )
    early_stop: EarlyStop | None = None
    clip: Positive | None = Field(None, description="largest gradient norm")
    accumulate: Count = Field(1, description="batches per optimizer step")
    grow: Grow | None = None
    freeze: list[str] = Field([], description="not trained: globs on weights or nodes, or an op type")
    validation: Fraction = Field(
        0.1, description="share of `data.train` held out, where there is no `data.validation`"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: an accelerator where torch finds one"
    )
    threads: Threads = Field(0, description="CPU threads; 0: torch's default")
