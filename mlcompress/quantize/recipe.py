"""The `quantize` section of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlcompress.metrics import LABELLED
from mlcompress.quantize.recipe_budget import Budget
from mlcompress.quantize.recipe_compute import Compute, compute_problems
from mlcompress.quantize.recipe_qat import Qat
from mlcompress.quantize.recipe_static import Accuracy, Activations, Smooth
from mlcompress.quantize.recipe_weights import ASYMMETRIC, Storage, Weights, problems
from mlcompress.quantize.rounding import roundings
from mlcompress.recipe.base import Section
from mlcompress.recipe.sections import Shared

PLACEMENTS = ("rules", "measured", "all")


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
        "on data.train as it will be rounded. dynamic: MatMul, Gemm and LSTM "
        "as integers, no data. weight_only: fewer bits in the file, float in memory. "
        "cast: fp16 or bf16 in the file",
    )
    compute: Compute = Field(
        "float",
        description="weight_only: nbits keeps int8 or int4 weights of MatMul and Gemm small in memory as "
        "well (MatMulNBits, a scale per block of 128). cast: fp16 or bf16, the graph computes in it",
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
    budget: Budget | None = None
    target: Literal["cpu", "openvino"] = Field(
        "cpu",
        description="whose kernels decide. openvino: weights of MatMul and Gemm as DequantizeLinear, which "
        "is fast there and slow on the CPU provider",
    )

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
        found += self._layer_problems()
        if self.target == "openvino":
            found += self._target_problems()
        has_budget = self.budget is not None
        found += compute_problems(mode, self.compute, self.weights, self.storage, self.target, has_budget)
        placed = {"activations", *(() if self._repeats_layers else ("placement",))}
        if mode not in ("static", "qat") and self.model_fields_set & placed:
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
    def _repeats_layers(self) -> bool:
        """A plan holds the schemes of single weights too, which modes without placement have as well."""
        return isinstance(self.placement, Replay) and self.mode in ("dynamic", "weight_only")

    def _layer_problems(self) -> list[str]:
        """What of `budget` and `weights.layers` does not go with the rest."""
        found = []
        own = self.weights.model_fields_set & {"scheme", "layers"}
        if self.budget is not None and own:
            found.append(f"budget chooses the schemes of weights; leave weights.{sorted(own)[0]} out")
        if self.budget is not None and self.storage != "auto":
            found.append(f"budget counts the bytes of `storage: auto`, not {self.storage}; leave storage out")
        choices = [*self.weights.layers.values(), *(self.budget.over if self.budget else ())]
        if choices and self.mode in ("qat", "cast"):
            found.append(f"budget and weights.layers: for static, dynamic and weight_only, not {self.mode}")
            return found
        for choice in choices:
            single = self.weights.model_copy(update={"scheme": choice})
            found += problems(self.mode, single, self.storage)
            if not self.weights.symmetric and choice.name not in ASYMMETRIC:
                found.append(f"{choice.name} has no zero point; leave `symmetric` out")
        return list(dict.fromkeys(found))

    def _target_problems(self) -> list[str]:
        """What is not for OpenVINO."""
        found = []
        if self.mode == "dynamic":
            found.append("dynamic takes twice the CPU provider's time on OpenVINO; use `mode: static`")
        if self.budget is not None:
            found.append("budget counts the bytes of `target: cpu`; leave one of them out")
        if self.placement == "measured":
            found.append("placement measured times the CPU provider; use rules or all with target openvino")
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

    @property
    def times_its_target(self) -> bool:
        """Is the latency that gates look at that of the target?"""
        return self.quantize.target == "cpu" or self.measure.providers[0] == self.quantize.target

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
        if section.budget is not None and self.data.calibration is not None:
            needed["calibration"] = False
        if section.accuracy is not None and self.data.validation is not None:
            needed["validation"] = self.evaluate.metric in LABELLED
        return needed
