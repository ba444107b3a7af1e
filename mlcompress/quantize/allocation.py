"""Which scheme each weight gets under a limit on the bytes of the file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlcompress import console, graph
from mlcompress.data.samples import batches
from mlcompress.graph.encodings import Chains, smallest
from mlcompress.graph.initializers import constant
from mlcompress.graph.session import session
from mlcompress.quantize.cast import channel_axes, scaled_weights
from mlcompress.quantize.encode import encode
from mlcompress.quantize.recipe_weights import Weights
from mlcompress.registry import Choice

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

SAMPLES = 16
"""Of the calibration data, evenly spread: the noise of a rounded weight is alike on all of them."""
Array = np.ndarray


@dataclass(frozen=True)
class Option:
    """One scheme for one weight."""

    scheme: Choice
    bytes: int
    """In the file, in the smallest encoding, names and nodes included."""
    noise: float


def allocate(options: Mapping[str, Sequence[Option]], limit: int) -> dict[str, Option]:
    """An option for each weight with at most `limit` bytes in all, and little noise.

    Noises are taken to add up. Starts from the most precise ones and takes, again and again, the step of the
    least noise per byte saved (on each weight's lower convex hull, where greedy steps are the best ones for
    the size they end at; Shoham, Gersho 1988). What the last step has saved too much is spent again. Where
    even the smallest options do not fit, these are the result.
    """
    hulls = {name: _hull(found) for name, found in options.items()}
    chosen = dict.fromkeys(hulls, 0)
    steps = sorted(
        (
            ((after.noise - before.noise) / (before.bytes - after.bytes), name)
            for name, hull in hulls.items()
            for before, after in pairwise(hull)
        ),
        key=lambda step: step[0],
    )
    size = sum(hull[0].bytes for hull in hulls.values())
    for _, name in steps:  # slopes rise along a hull, so its steps come in order
        if size <= limit:
            break
        size -= hulls[name][chosen[name]].bytes - hulls[name][chosen[name] + 1].bytes
        chosen[name] += 1
    result = {name: hulls[name][index] for name, index in chosen.items()}
    return _spend(options, result, limit - size)


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull of noise over bytes, the most precise option first."""
    hull: list[Option] = []
    for one in sorted(options, key=lambda option: (option.noise, option.bytes)):
        if hull and one.bytes >= hull[-1].bytes:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], one):
            hull.pop()
        hull.append(one)
    return hull


def _slope(before: Option, after: Option) -> float:
    return (after.noise - before.noise) / (before.bytes - after.bytes)


def _spend(
    options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], slack: int
) -> dict[str, Option]:
    """Better options for as long as bytes are left: each time the one that takes away the most noise."""
    while slack > 0:
        better = [
            (now.noise - option.noise, name, option)
            for name, now in chosen.items()
            for option in options[name]
            if option.noise < now.noise and option.bytes - now.bytes <= slack
        ]
        if not better:
            break
        _, name, option = max(better, key=lambda found: found[0])
        slack -= option.bytes - chosen[name].bytes
        chosen = {**chosen, name: option}
    return chosen


def options_of(
    base: ir.Model, weights: Weights, over: Sequence[Choice], keep: Sequence[ir.Node], data: "Dataset | None"
) -> dict[str, list[Option]]:
    """Every option of every weight that gets a scheme, by name.

    Noise with samples: energy of the change of the model's floating-point outputs with this weight alone
    rounded to nearest, relative to their own, summed over outputs. Without samples: energy of the change of
    the weight relative to its own, times its elements.
    """
    values = scaled_weights(base, list(base.graph.initializers), keep)
    chains = Chains(graph.copy(base))
    noise = _OutputNoise(base, values, data) if data is not None and values else None
    found: dict[str, list[Option]] = {}
    with console.progress("sensitivity", len(values) * len(over)) as advance:
        for value in values:
            array = np.asarray(constant(value))
            axes = () if weights.granularity == "per_tensor" else channel_axes(value)
            block = weights.block if weights.granularity == "per_block" else None
            found[str(value.name)] = []
            for scheme in over:
                codes = encode(array, axes, scheme, symmetric=weights.symmetric, block=block)
                size = smallest(chains, codes)[1].bytes()
                rounded = np.ascontiguousarray(codes.values())
                lost = noise(str(value.name), rounded) if noise else _weight_noise(array, rounded)
                found[str(value.name)].append(Option(scheme, size, lost))
                advance(1)
    return found


def _weight_noise(array: Array, rounded: Array) -> float:
    energy = float(np.square(array, dtype=np.float64).sum())
    return float(np.square(array - rounded, dtype=np.float64).sum()) / max(energy, 1e-300) * array.size


class _OutputNoise:
    """Runs one graph whose weights are inputs, so that each can be tried without a session of its own."""

    def __init__(self, base: ir.Model, values: Sequence[ir.Value], data: "Dataset") -> None:
        model = graph.copy(base)
        self._weights: dict[str, Array] = {}
        for name in [str(value.name) for value in values]:
            weight = model.graph.initializers.pop(name)
            array = self._weights[name] = np.asarray(constant(base.graph.initializers[name]))
            weight.const_value = None
            weight.type, weight.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
            model.graph.inputs.append(weight)
        count = min(SAMPLES, len(data))
        some = data.subset(np.arange(count) * len(data) // count)
        self._feeds = [batch.inputs for batch in batches(base, some, SAMPLES)]
        self._session = session(graph.to_bytes(model))
        self._wanted = list(self._run(self._weights))
        energy = [float(np.square(output, dtype=np.float64).sum()) for output in self._wanted]
        self._energy = np.maximum(energy, 1e-300)

    def __call__(self, name: str, rounded: Array) -> float:
        found = self._run({**self._weights, name: rounded})
        lost = [_energy(one, other) for one, other in zip(self._wanted, found, strict=True)]
        return float(np.sum(lost / self._energy))

    def _run(self, weights: Mapping[str, Array]) -> Iterator[Array]:
        for feed in self._feeds:
            for output in self._session.run(None, {**feed, **weights}):
                if output.dtype.kind == "f":
                    yield output


def _energy(one: Array, other: Array) -> float:
    """Of the difference, where both are finite (scores of masked places are not)."""
    with np.errstate(invalid="ignore"):
        change = np.asarray(one, np.float64) - other
    return float(np.square(change[np.isfinite(change)]).sum())
