"""The `quantize` section of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlcompress.metrics import LABELLED
from mlcompress.quantize.recipe_qat import Qat
from mlcompress.quantize.recipe_static import Accuracy, Activations, Smooth
from mlcompress.quantize.recipe_weights import Storage, Weights, problems
from mlcompress.quantize.rounding import roundings
from mlcompress.recipe.sections import Section, Shared

LATER = {
    "target": {"openvino": "use cpu"},
}
"""Values that recipes may name and this version does not do, with what to do instead."""
PLACEMENTS = ("rules", "measured", "all")


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


class Replay(Section):
    """Place integers as an earlier run did."""

    plan: str = Field(description="card (OUTPUT.json) of a run whose placement is to be repeated")


class QuantizeSection(Section):
    """How the graph computes, and how weights are stored."""

    mode: Literal["static", "qat", "dynamic", "weight_only", "cast"] = Field(
        "static",
        description="static: integers throughout, ranges from data.calibration. qat: the same, then trained "
        "on data.train as it will be rounded. dynamic: MatMul and Gemm "
        "as integers, no data. weight_only: fewer bits in the file, float in memory. "
        "cast: fp16 or bf16 in the file",
    )
    weights: Weights = Weights()
    activations: Activations = Activations()
    storage: Storage = Field(
        "auto",
        description="how the file holds weights (`mlcompress list encodings`); auto: the smallest for each. "
        "static, dynamic: plain, fp16 and bf16 are for weights of layers that compute in float",
    )
    placement: Annotated[Literal["rules", "measured", "all"] | Replay, BeforeValidator(_placement)] = Field(
        "rules",
        description="static: which layers run as integers. rules: by op and shape; measured: the fastest of "
        "several whole graphs; all: every layer that can; {plan: CARD}: as in that card",
    )
    rounding: roundings.annotation() = Field(  # type: ignore[valid-type]
        roundings.choose("gptq"),
        description="static: how weights find their codes; `mlcompress list roundings`",
    )
    bias_correction: bool = Field(
        True,
        description="static: the mean error of a layer's output, on data.calibration, goes into its bias",
    )
    equalize: bool = Field(
        False, description="static, qat: ranges of channels are balanced between a Conv and the next, exactly"
    )
    smooth: bool | Smooth = Field(
        True,
        description="outliers of what MatMul and Gemm read move into weights, exactly. static: by default; "
        "dynamic, qat: where it is asked for (dynamic then needs data.calibration)",
    )
    qat: Qat = Field(Qat(), description="how `mode: qat` trains; `train` has epochs and optimizer")
    accuracy: Accuracy | None = None
    target: Annotated[Literal["cpu"], _not_yet("target")] = Field("cpu", description="whose kernels decide")

    @model_validator(mode="before")
    @classmethod
    def _keys_of_later_versions(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _fits_together(self) -> "QuantizeSection":
        if problems := self._problems():
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> list[str]:
        mode = self.mode
        found = problems(mode, self.weights, self.storage)
        if mode not in ("static", "qat") and self.model_fields_set & {"activations", "placement"}:
            found.append(f"activations and placement belong to `mode: static`, not {mode}")
        if mode == "qat":
            found += self.qat.problems(self.weights.chosen(mode).name)
        elif self.qat != Qat():
            found.append(f"qat belongs to `mode: qat`, not {mode}")
        fitting = [key for key in ("rounding", "bias_correction") if key in self.model_fields_set]
        if mode == "qat" and fitting:
            found.append("rounding and bias_correction belong to static: qat trains weights and biases")
        elif mode != "static" and fitting:
            found.append(
                f"{' and '.join(fitting)}: for layers with calibrated ranges, `mode: static`, not {mode}"
            )
        if self.equalize and mode not in ("static", "qat"):
            found.append(f"equalize is for integer Convs, which {mode} does not make; use `mode: static`")
        if self.smooth and "smooth" in self.model_fields_set and mode in ("weight_only", "cast"):
            found.append(f"smooth is for integer activations, which {mode} does not make; leave it out")
        if mode == "qat" and self.activations.scheme != "uint8":
            found.append(f"activations.scheme {self.activations.scheme} is not for qat, which trains uint8")
        if mode == "qat" and self.activations.symmetric:
            found.append("activations.symmetric is not for qat, which keeps calibrated zero points")
        if self.accuracy is not None and mode in ("weight_only", "cast", "qat"):
            found.append(f"accuracy belongs to static and dynamic, not {mode}; use `gate: {{max_drop: ...}}`")
        if self.accuracy is not None and isinstance(self.placement, Replay):
            found.append("accuracy would change the plan that is to be repeated; leave one of them out")
        return found

    @property
    def smoothing(self) -> float | None:
        """Alpha of SmoothQuant; None where it is off."""
        if not self.smooth or (self.mode != "static" and "smooth" not in self.model_fields_set):
            return None
        return self.smooth.alpha if isinstance(self.smooth, Smooth) else Smooth().alpha


class QuantizeRecipe(Shared):
    """A recipe of `mlcompress quantize`; `quantize: {}` is static int8."""

    quantize: QuantizeSection = QuantizeSection()

    @model_validator(mode="after")
    def _limit_suits_the_metric(self) -> "QuantizeRecipe":
        accuracy = self.quantize.accuracy
        if accuracy is not None and accuracy.min_metric is not None and self.evaluate.metric == "mse":
            raise ValueError("quantize.accuracy.min_metric: mse is better when it is low; use max_drop")
        return self

    @model_validator(mode="after")
    def _an_epoch_for_each_scheme(self) -> "QuantizeRecipe":
        phases = len(self.quantize.qat.progressive)
        if self.train.epochs < phases:
            raise ValueError(f"train.epochs: {self.train.epochs} epochs for {phases} schemes; give one each")
        return self

    def needs(self) -> dict[str, bool]:
        """Ranges come from calibration samples, without labels; training needs labels only without a
        teacher. Layers are given back by validation samples where the recipe has them."""
        section, needed = self.quantize, dict[str, bool]()
        is_static = section.mode == "static" and section.activations.scheme != "float"
        if (
            is_static
            or section.mode == "qat"
            or (section.mode == "dynamic" and section.smoothing is not None)
        ):
            needed["calibration"] = False
        if section.mode == "qat":
            needed["train"] = section.qat.teacher == "none"
        if section.accuracy is not None and self.data.validation is not None:
            needed["validation"] = self.evaluate.metric in LABELLED
        return needed
