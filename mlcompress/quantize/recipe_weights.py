"""`quantize.weights` and `quantize.storage`: which numbers weights become, and how the file holds them."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from mlcompress.quantize.mixed import Mixed
from mlcompress.quantize.schemes import UNSCALED, schemes
from mlcompress.quantize.weights import INTEGER_SCHEMES, largest_level
from mlcompress.recipe.base import Section
from mlcompress.registry import Choice

Storage = Literal[
    "auto",
    "plain",
    "fp16",
    "bf16",
    "int8",
    "int4",
    "uint4",
    "int2",
    "uint2",
    "packed",
    "codebook",
    "frequent",
    "fixed_point",
    "log",
    "bitmask",
    "relative",
    "rice",
]
"""`auto` and the names of the registry `encodings`, which is not loaded for the sake of a recipe."""

ASYMMETRIC = ("int8", "int4", "int2")
"""Schemes that may have a zero point."""
BLOCK = 32
_TABLES = ("packed", "codebook", "bitmask", "relative", "rice")
"""Encodings of whatever a scheme gives."""


class Weights(Section):
    """How weights become fewer bits."""

    scheme: schemes.annotation() | None = Field(  # type: ignore[valid-type]
        None, description="`mlcompress list schemes`; int8, with `mode: cast` fp16, where it is left out"
    )
    granularity: Literal["per_channel", "per_tensor", "per_block"] = Field(
        "per_channel",
        description="one scale per output channel, per tensor, or per `block` weights (weight_only)",
    )
    block: Annotated[int, Field(ge=4, le=4096)] = Field(
        BLOCK, description="per_block only: weights in a block"
    )
    layers: dict[str, schemes.annotation()] = Field(  # type: ignore[valid-type]
        {},
        description="other schemes for the weights of single layers, by patterns as in `skip`: "
        "{'op:Gather': int4}; later ones win",
    )
    symmetric: bool = Field(
        True, description="false: zero points (weight_only with int8, int4, int2); integer kernels want none"
    )

    @model_validator(mode="after")
    def _own_options(self) -> "Weights":
        name = None if self.scheme is None else self.scheme.name
        found = []
        if self.block != BLOCK and self.granularity != "per_block":
            found.append("block belongs to `granularity: per_block`")
        if not self.symmetric and name not in (None, *ASYMMETRIC):
            found.append(f"{name} has no zero point; leave `symmetric` out")
        if self.granularity != "per_channel" and name in UNSCALED:
            found.append(f"{name} has no scales; leave `granularity` out")
        if found:
            raise ValueError("; ".join(found))
        return self

    def chosen(self, mode: str) -> Choice:
        """The scheme, or the mode's own."""
        default = schemes.choose("fp16" if mode == "cast" else "int8")
        return default if self.scheme is None else self.scheme

    def by_layer(self, mode: str) -> Choice | Mixed:
        """The scheme, or that of each weight where they differ."""
        return Mixed(self.chosen(mode), self.layers) if self.layers else self.chosen(mode)


def problems(mode: str, weights: Weights, storage: str) -> list[str]:
    """What of scheme, granularity and storage does not go together or with the mode; a text for each."""
    scheme, found = weights.chosen(mode), list[str]()
    name = scheme.name
    if mode == "cast":
        if name not in UNSCALED:
            found.append(f"weights.scheme {name} does not go with mode cast, which has fp16 and bf16")
        if weights.granularity != "per_channel":
            found.append("granularity belongs to schemes with scales; leave it out with `mode: cast`")
    if mode in ("static", "qat", "dynamic"):
        found += _not_for_integers(mode, weights, scheme)
    if mode in ("weight_only", "cast"):
        if storage == "plain":
            found.append(f"storage plain does not go with mode {mode}: the file would stay as large as it is")
        elif (fitting := fits(scheme, weights.symmetric)) and storage not in ("auto", *fitting):
            listed = ", ".join(("auto", *fitting))
            found.append(f"storage {storage} does not go with mode {mode} and {name}; use {listed}")
    return found


def _not_for_integers(mode: str, weights: Weights, scheme: Choice) -> list[str]:
    found = []
    if scheme.name not in INTEGER_SCHEMES:
        found.append(
            f"weights.scheme {scheme.name} does not go with mode {mode}, which computes with integers; "
            "use `mode: cast` or `weight_only`"
        )
    elif largest_level(scheme) > 127:
        found.append(
            f"log2 of more than 4 bits does not go with mode {mode}: its levels do not fit 8 bits; "
            "use `mode: weight_only`"
        )
    if weights.granularity == "per_block":
        found.append(f"granularity per_block does not go with mode {mode}: integer kernels have no blocks")
    if not weights.symmetric:
        found.append(f"symmetric: false does not go with mode {mode}: integer kernels want no zero point")
    return found


def fits(scheme: Choice, symmetric: bool) -> tuple[str, ...]:
    """The encodings that can hold what a scheme gives when it is decoded to float."""
    name = scheme.name
    bits = scheme.options().get("bits", {"int4": 4, "int2": 2, "ternary": 2, "binary": 2}.get(name, 8))
    if name in UNSCALED:
        return (name, "bitmask", "relative", "rice")
    if name in ("codebook", "piecewise"):
        return _TABLES
    if name == "log2":
        return ("log", *(("int8",) if largest_level(scheme) <= 127 else ()), *_TABLES)
    own = ("fixed_point",) if name == "fixed_point" else ()
    sign = "int" if symmetric else "uint"
    small = tuple(f"{sign}{width}" for width in (4, 2) if bits <= width)
    return (*own, "int8", *small, *_TABLES, "frequent")


STORAGES: tuple[str, ...] = get_args(Storage)
