"""What every recipe section is made of."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=0, le=1024)]


class Section(BaseModel):
    """Unknown keys are errors; values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def refuse_unused(section: S, used: dict[str, bool]) -> S:
    """Refuse keys that were changed although the other keys leave them without effect.

    Raises:
        ValueError: one line that names them.
    """
    defaults = type(section).model_fields
    idle = [
        key for key, is_used in used.items() if not is_used and getattr(section, key) != defaults[key].default
    ]
    if idle:
        raise ValueError(f"{' and '.join(idle)} would have no effect here; leave it out")
    return section


def named(value: Any) -> Any:
    """`name` is short for `{name: name}`."""
    return {"name": value} if isinstance(value, str) else value
