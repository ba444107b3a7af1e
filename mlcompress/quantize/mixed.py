"""Schemes that differ from weight to weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlcompress.registry import Choice


@dataclass(frozen=True)
class Mixed:
    """A scheme for each weight."""

    default: Choice
    layers: Mapping[str, Choice]
    """By name of the weight; the default for all others."""

    def of(self, weight: str) -> Choice:
        """The scheme of the weight of this name."""
        return self.layers.get(weight, self.default)


Scheme = Choice | str | Mixed
"""One for all weights, or one for each."""


def scheme_of(scheme: Scheme, weight: str) -> Choice | str:
    """The scheme of the weight of this name."""
    return scheme.of(weight) if isinstance(scheme, Mixed) else scheme
