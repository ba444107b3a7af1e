"""`quantize.budget`: how large the file may be, and which schemes weights may have for it."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from mlcompress.quantize.schemes import schemes
from mlcompress.recipe.base import Section
from mlcompress.registry import Choice

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", re.IGNORECASE)


def _bytes(value: Any) -> Any:
    """`12.5 MiB` as a number of bytes."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"{value!r} is no size; write bytes, or for example 12.5 MiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


class Budget(Section):
    """Each weight gets the scheme at which the model's outputs suffer least for the bytes; one limit."""

    max_bytes: Annotated[int, Field(gt=0), BeforeValidator(_bytes)] | None = Field(
        None, description="of the file: a number, or for example 12.5 MiB"
    )
    max_size_ratio: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="bytes of the file / bytes of the float model"
    )
    over: list[schemes.annotation()] = Field(  # type: ignore[valid-type]
        [schemes.choose("int8"), schemes.choose("int4"), schemes.choose("int2")],
        min_length=2,
        description="schemes to choose from; codebooks of 3, 5, 6 and 7 bits are the steps in between",
    )

    @model_validator(mode="after")
    def _one_limit(self) -> "Budget":
        if (self.max_bytes is None) == (self.max_size_ratio is None):
            raise ValueError("one limit: `max_size_ratio: 0.2` or `max_bytes: 12.5 MiB`")
        choices: list[Choice] = self.over
        if len({repr(choice) for choice in choices}) < len(choices):
            raise ValueError("over names a scheme twice")
        return self

    def limit(self, before: int) -> int:
        """Bytes that the file may have, of a float model of `before` bytes."""
        return int(self.max_size_ratio * before) if self.max_size_ratio is not None else self.max_bytes or 0
