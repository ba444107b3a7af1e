"""The `quantize` section of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlcompress.quantize.observers import observers
from mlcompress.recipe.sections import Section, Shared

LATER = {
    "mode": {"qat": "train with `mlcompress distill`, then use `mode: static`"},
    "scheme": dict.fromkeys(
        ("int4", "int2", "ternary", "binary", "bf16", "fixed_point", "log2", "piecewise", "codebook"),
        "use int8 or fp16",
    ),
    "activations": dict.fromkeys(
        ("int8", "uint16", "int16", "float"), "use uint8, which has the fast CPU kernels"
    ),
    "granularity": {"per_block": "use per_channel"},
    "storage": dict.fromkeys(
        ("int4", "int2", "packed", "codebook", "bitmask", "relative"), "use auto, int8 or fp16"
    ),
    "target": {"openvino": "use cpu"},
}
"""Values that recipes may name and this version does not do, with what to do instead."""
PLACEMENTS = ("rules", "measured", "all")
LATER_KEYS = ("rounding", "bias_correction", "equalize", "smooth")


def _not_yet(kind: str) -> BeforeValidator:
    """Refuse the values of LATER in words of their own."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in LATER[kind]:
            raise ValueError(f"{value!r} is not in this version; {LATER[kind][value]}")
        return value

    return BeforeValidator(check)


def _placement(value: Any) -> Any:
    if isinstance(value, str) and value not in PLACEMENTS:
        raise ValueError(f"{value!r} is not known; choose one of {', '.join(PLACEMENTS)}, or {{plan: CARD}}")
    return value


class Weights(Section):
    """How weights become fewer bits."""

    scheme: Annotated[Literal["int8", "fp16"] | None, _not_yet("scheme")] = Field(
        None, description="int8; fp16 with `mode: cast` only"
    )
    granularity: Annotated[Literal["per_channel", "per_tensor"], _not_yet("granularity")] = Field(
        "per_channel", description="one scale per output channel, or one per tensor"
    )
    symmetric: Literal[True] = Field(True, description="integer kernels want weights without a zero point")


class Activations(Section):
    """How the values between layers become integers (static only)."""

    scheme: Annotated[Literal["uint8"], _not_yet("activations")] = Field(
        "uint8", description="asymmetric 8 bits"
    )
    observer: observers.annotation() = Field(  # type: ignore[valid-type]
        observers.choose("mse"), description="`mlcompress list observers`"
    )
    symmetric: Literal[False] = Field(False, description="uint8 has a zero point")


class Accuracy(Section):
    """Give layers back to float, worst first, until this holds on `data.evaluate`; exactly one key."""

    max_drop: Annotated[float, Field(ge=0)] | None = Field(None, description="metric before minus after")
    min_metric: float | None = Field(None, description="metric after")

    @model_validator(mode="after")
    def _one_limit(self) -> "Accuracy":
        if (self.max_drop is None) == (self.min_metric is None):
            raise ValueError("one limit: `max_drop: 0.005` or `min_metric: 0.92`")
        return self


class Replay(Section):
    """Place integers as an earlier run did."""

    plan: str = Field(description="card (OUTPUT.json) of a run whose placement is to be repeated")


class QuantizeSection(Section):
    """How the graph computes, and how weights are stored."""

    mode: Annotated[Literal["static", "dynamic", "weight_only", "cast"], _not_yet("mode")] = Field(
        "static",
        description="static: integers throughout, ranges from data.calibration. dynamic: MatMul and Gemm "
        "as integers, no data. weight_only: int8 in the file, float in memory. cast: fp16 in the file",
    )
    weights: Weights = Weights()
    activations: Activations = Activations()
    storage: Annotated[Literal["auto", "plain", "int8", "fp16"], _not_yet("storage")] = Field(
        "auto",
        description="static, dynamic: how weights of layers that compute in float are stored; auto: int8",
    )
    placement: Annotated[Literal["rules", "measured", "all"] | Replay, BeforeValidator(_placement)] = Field(
        "rules",
        description="static: which layers run as integers. rules: by op and shape; measured: the fastest of "
        "several whole graphs; all: every layer that can; {plan: CARD}: as in that card",
    )
    accuracy: Accuracy | None = None
    target: Annotated[Literal["cpu"], _not_yet("target")] = Field("cpu", description="whose kernels decide")

    @model_validator(mode="before")
    @classmethod
    def _keys_of_later_versions(cls, value: Any) -> Any:
        asked = [key for key in LATER_KEYS if isinstance(value, dict) and key in value]
        if asked:
            raise ValueError(f"not in this version: {', '.join(asked)}; leave it out")
        return {} if value is None else value

    @model_validator(mode="after")
    def _fits_together(self) -> "QuantizeSection":
        if problems := self._problems():
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> list[str]:
        mode, found = self.mode, list[str]()
        own = "fp16" if mode == "cast" else "int8"
        scheme = self.weights.scheme
        if scheme is not None and scheme != own:
            found.append(
                f"weights.scheme {scheme} does not go with mode {mode}; fp16 is `mode: cast`, int8 the others"
            )
        if mode != "static" and self.model_fields_set & {"activations", "placement"}:
            found.append(f"activations and placement belong to `mode: static`, not {mode}")
        if mode in ("weight_only", "cast") and self.storage not in ("auto", own):
            found.append(f"storage {self.storage} does not go with mode {mode}, which stores {own}")
        if self.accuracy is not None and mode in ("weight_only", "cast"):
            found.append(f"accuracy belongs to static and dynamic, not {mode}; use `gate: {{max_drop: ...}}`")
        if self.accuracy is not None and isinstance(self.placement, Replay):
            found.append("accuracy would change the plan that is to be repeated; leave one of them out")
        if mode == "cast" and self.weights.granularity != "per_channel":
            found.append("granularity belongs to int8; leave it out with `mode: cast`")
        return found

    @property
    def form(self) -> str:
        """The encoding of weights that stay float in memory."""
        if self.storage == "auto":
            return "fp16" if self.mode == "cast" else "int8"
        return self.storage


class QuantizeRecipe(Shared):
    """A recipe of `mlcompress quantize`; `quantize: {}` is static int8."""

    quantize: QuantizeSection = QuantizeSection()

    @model_validator(mode="after")
    def _limit_suits_the_metric(self) -> "QuantizeRecipe":
        accuracy = self.quantize.accuracy
        if accuracy is not None and accuracy.min_metric is not None and self.evaluate.metric == "mse":
            raise ValueError("quantize.accuracy.min_metric: mse is better when it is low; use max_drop")
        return self

    def needs(self) -> dict[str, bool]:
        """Static ranges come from calibration samples (labels play no part)."""
        return {"calibration": False} if self.quantize.mode == "static" else {}
