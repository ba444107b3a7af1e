"""The combinations that `distill.sweep` tries, each as the losses of one training run."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from mlcompress.errors import shorten
from mlcompress.train.losses import LossEntry

Trial = tuple[dict[str, float], list[LossEntry]]
"""Values by key of the sweep, and the losses with them."""


def trials(losses: Sequence[LossEntry], values: Mapping[str, Sequence[float]]) -> list[Trial]:
    """All combinations, the last key changing fastest.

    A key is an option, set on every loss that has it (`temperature`), or `LOSS.OPTION` (`soft.weight`).

    Raises:
        ValueError: a key that none of the losses has, or a value that a loss refuses.
    """
    places = {key: _places(losses, key) for key in values}
    found = []
    for combination in product(*values.values()):
        chosen = list(losses)
        for key, value in zip(values, combination, strict=True):
            option = key.rpartition(".")[2]
            for place in places[key]:
                chosen[place] = _with(chosen[place], option, value, key)
        found.append((dict(zip(values, combination, strict=True)), chosen))
    return found


def _places(losses: Sequence[LossEntry], key: str) -> list[int]:
    name, _, option = key.rpartition(".")
    found = [
        place
        for place, loss in enumerate(losses)
        if option in {"weight", *loss.options()} and name in ("", loss.name)
    ]
    if not found:
        keys = [f"{loss.name}.{one}" for loss in losses for one in ("weight", *loss.options())]
        raise ValueError(f"sweep.{key}: none of the losses has it; choose from {shorten(keys)}")
    return found


def _with(loss: LossEntry, option: str, value: float, key: str) -> LossEntry:
    keys: dict[str, Any] = {**loss.model_dump(by_alias=True), option: value}
    try:
        return type(loss).model_validate(keys)
    except ValidationError as problem:
        raise ValueError(f"sweep.{key}: {value:g}: {problem.errors()[0]['msg']}") from None
