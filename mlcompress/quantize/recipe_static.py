"""Sections of `quantize` about activations and what makes calibrated integers accurate."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mlcompress.quantize.observers import observers
from mlcompress.recipe.base import Section


class Activations(Section):
    """How the values between layers become integers (static and qat)."""

    scheme: Literal["uint8", "int8", "uint16", "int16", "float"] = Field(
        "uint8",
        description="uint8 has the fast CPU kernels; int8 and 16 bits make Conv slower than fp32 there. "
        "float: weights alone become fewer bits",
    )
    observer: observers.annotation() = Field(  # type: ignore[valid-type]
        observers.choose("mse"), description="`mlcompress list observers`; minmax by default with 16 bits"
    )
    symmetric: bool = Field(False, description="true: the zero point is the middle code")

    @model_validator(mode="before")
    @classmethod
    def _wide_codes_reach_all_values(cls, value: Any) -> Any:
        """16 bits need not clip; the other observers weigh clipping against steps of 8 bits."""
        if isinstance(value, dict) and str(value.get("scheme")).endswith("16"):
            return {"observer": "minmax", **value}
        return value

    @model_validator(mode="after")
    def _own_options(self) -> "Activations":
        if self.scheme == "float" and len(self.model_fields_set) > 1:
            raise ValueError("observer and symmetric mean nothing with scheme float; leave them out")
        return self


class Smooth(Section):
    """SmoothQuant: outliers of activations move into the weights of MatMul and Gemm."""

    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.8, description="share of the outliers that moves: 0 none, 1 all"
    )


class Accuracy(Section):
    """Give layers back to float until this holds on `data.validation` (without it: on `data.evaluate`);
    one key.
    """

    max_drop: Annotated[float, Field(ge=0)] | None = Field(None, description="metric before minus after")
    min_metric: float | None = Field(None, description="metric after")

    @model_validator(mode="after")
    def _one_limit(self) -> "Accuracy":
        if (self.max_drop is None) == (self.min_metric is None):
            raise ValueError("one limit: `max_drop: 0.005` or `min_metric: 0.92`")
        return self
