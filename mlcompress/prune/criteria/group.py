"""What a criterion is given: the weights of a family of units, and what was measured of them."""

import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlcompress.registry import Choice, Registry

criteria = Registry("criterion")

Array = NDArray[Any]
Scores = NDArray[np.float64]
Slices = tuple[Array, ...]
Samples = Annotated[
    int, Field(ge=1, le=1_000_000, description="of the data, the first ones, to measure it on")
]


@dataclass(frozen=True)
class Layer:
    """A layer that reads the units, as a matrix product: what `reconstruction` fits."""

    weight: Array
    """[N, units, k]: N outputs; k weights of each for one unit, such as the kernel of a Conv."""
    second: Array
    """[units * k, units * k], mean of x x' over what the layer reads."""


@dataclass(frozen=True)
class Group:
    """The weights of a family of units.

    `slices` has one array `[units, k]` for each tensor that the family touches: row u holds the weights that
    disappear with unit u. `first` counts those of them that produce the units; they come first. Whatever
    else is asked for is filled in, and only then.
    """

    slices: Slices
    first: int
    rng: np.random.Generator
    gradients: Slices = ()
    """As `slices`: mean over batches of |dL/dw|."""
    squared_gradients: Slices = ()
    """As `slices`: mean over samples of (dL/dw)^2."""
    squared_products: Slices = ()
    """One [units] for each of `slices`: mean over batches of (sum over the unit of w dL/dw)^2."""
    movements: Slices = ()
    """As `slices`: sum over training steps of -w dL/dw."""
    scales: Slices = ()
    """Scales of batch norms, [units, k]."""
    mean_activation: Array = field(default_factory=lambda: np.zeros(0))
    """[units], mean |a| of what the next layer reads."""
    active_share: Array = field(default_factory=lambda: np.zeros(0))
    """[units], share of it that is not zero."""
    pooled: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """[samples, units], its mean over the positions of a sample."""
    input_norms: Slices = ()
    """For each of `readers`, [units, k] or [units, 1]: root mean square of what each weight multiplies."""
    layers: tuple[Layer, ...] = ()
    """The layers that read the units."""
    weight: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """Single weights as rows of inputs, [N, K]."""
    second: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """[K, K], mean of x x' over what they multiply."""

    @property
    def producers(self) -> Slices:
        """Those of `slices` that make the units."""
        return self.slices[: self.first]

    @property
    def readers(self) -> Slices:
        """Those of `slices` that read the units; single weights read and make at once."""
        return self.slices[self.first :] or self.slices

    @property
    def units(self) -> int:
        return len(self.slices[0])


GRADIENTS = frozenset({"gradients", "squared_gradients", "squared_products"})
"""What one backward pass a batch, or a sample, tells."""
ACTIVATIONS = frozenset({"mean_activation", "active_share", "pooled"})
"""What the values between layers tell of units."""
INPUTS = frozenset({"input_norms", "layers", "second"})
"""What is known of the inputs of single weights."""


def needs(name: str) -> frozenset[str]:
    """What a criterion asks for, by the names of its positional parameters."""
    parameters = inspect.signature(criteria[name]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)


def measured(name: str) -> bool:
    """Whether a criterion needs samples."""
    return bool(needs(name) & (GRADIENTS | ACTIVATIONS | INPUTS))


def rank(choice: Choice, group: Group) -> Scores:
    """The scores of a group's units, [units]: low ones go first."""
    given = {name: getattr(group, name) for name in needs(choice.name)}
    scores: Scores = np.asarray(criteria.bind(choice)(**given), np.float64)
    return scores


def mean(parts: list[Array]) -> Scores:
    """Over the tensors of a family."""
    total: Scores = np.mean(np.stack(parts), axis=0)
    return total
