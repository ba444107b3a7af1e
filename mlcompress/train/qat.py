"""Quantisation-aware training: an executor of a graph with Q/DQ pairs whose weights and steps are trained.

The graph holds QuantizeLinear and DequantizeLinear where the deployed one does, by the same names, and float
weights. In every forward pass the weights are put on the grid of their scheme and the biases on the grid of
int32, so that what is trained is what the deployed graph computes, up to the order of sums.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from mlcompress.train.executor import Executor
from mlcompress.train.fake_weights import CLOSED, FAKES, LARGEST, closed_form, learned, mean_size, through

MOMENTUM = 0.05
"""What a batch adds to moving ranges."""
SMALLEST_MULTIPLE, LARGEST_MULTIPLE = 1 / 16, 16.0
"""Of its first value: a step that training shrinks to nothing never comes back."""
BIAS_MAX = 2**30
"""Levels that a bias may have; int32 with room for accumulated products."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A quantiser of activations: the tensor, and the initializers with its scale and zero point."""

    name: str
    """The tensor in the float graph."""
    tensor: str
    scale: str
    zero: str
    first: Range
    step: float
    """To begin with, float32."""
    elements: float
    """Of the tensor in one sample."""
    cap: float | None = None
    """Largest step: with a coarser one onnxruntime does not drop the Clip before the quantiser."""


@dataclass(frozen=True)
class Layer:
    """A weight to be quantised, with the scales to begin with, float32 [1, ..., C, ..., 1] or all ones."""

    weight: str
    scheme: str
    scales: np.ndarray
    factor: int = 1
    """Levels times this are the codes of the integer kernel."""
    biases: tuple[tuple[str, str], ...] = ()
    """Initializers, one number a channel, that become int32, each with the point that their layer reads."""


@dataclass(frozen=True)
class Trained:
    """What training gives the deployed graph."""

    weights: dict[str, np.ndarray]
    """On the grid of the scales."""
    scales: dict[str, np.ndarray]
    """Units of the levels, by name of the weight."""
    ranges: dict[str, Range]
    """By name of the tensor."""


class QuantisedExecutor(Executor):
    """Runs a graph with Q/DQ pairs on activations, its weights fake-quantised.

    With `learns` steps are parameters (LSQ); zero points stay as they were calibrated. Otherwise ranges
    follow the batches as moving averages for `updates` training batches and then stay, and steps of weights
    follow mean|w|.
    """

    def __init__(
        self,
        model: ir.Model,
        points: Sequence[Point],
        layers: Sequence[Layer],
        *,
        learns: bool = True,
        updates: int = 0,
    ) -> None:
        """Raises UnsupportedError as `Executor`."""
        super().__init__(model, purpose="train with quantisation")
        self._learns, self._updates = learns, updates
        self._points = {point.name: point for point in points}
        self._layers = {layer.weight: layer for layer in layers}
        self._biases = {bias: (layer, point) for layer in layers for bias, point in layer.biases}
        self._scales = {point.scale: point for point in points}
        self._zeros = {point.zero: point for point in points}
        self._steps: list[str] = []
        for point in points:
            self._add_point(point)
        for layer in layers:
            self._add_layer(layer)
        if not learns:
            self._register("#updates", torch.zeros((), dtype=torch.int64))

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Weights by initializer name, and the multiples of the steps."""
        return {**super().trainable, **{name: self._tensor(name) for name in self._steps}}

    @property
    def initializers(self) -> set[str]:
        """Names of the weights, without steps."""
        return set(super().trainable)

    def freeze(self, patterns: Sequence[str]) -> set[str]:
        """As `Executor.freeze`; the step of a weight that stays stays with it."""
        names = super().freeze(patterns)
        return names | {step for step in self._steps if step.removesuffix("#step") in names}

    def forward(self, inputs: dict[str, Tensor], taps: Collection[str] = ()) -> dict[str, Tensor]:
        """As `Executor.forward`; moving ranges take in the batch afterwards."""
        if self._learns or not self.training:
            return super().forward(inputs, taps)
        found = super().forward(inputs, [*taps, *(point.tensor for point in self._points.values())])
        self._observe(found)
        return found

    @torch.no_grad()
    def hold(self) -> None:
        """Keep the steps within their limits; to be called after every optimizer step."""
        for name in self._steps:
            self._tensor(name).clamp_(SMALLEST_MULTIPLE, LARGEST_MULTIPLE)

    @torch.no_grad()
    def result(self) -> Trained:
        """Weights on their grid, scales and ranges as they are now."""
        weights, scales, ranges = {}, {}, dict[str, Range]()
        for name, layer in self._layers.items():
            weights[name] = self._value(name).detach().cpu().numpy().copy()
            scales[name] = self._step(layer).detach().cpu().numpy().copy()
        for name, point in self._points.items():
            step, zero = float(self._value(point.scale)), float(self._value(point.zero))
            ranges[name] = (-zero * step, (255 - zero) * step)
        return Trained(weights, scales, ranges)

    def _add_point(self, point: Point) -> None:
        low, high = point.first
        if self._learns:
            self._add_steps(point.name, torch.tensor(point.step))
        else:
            self._register(f"{point.name}#low", torch.tensor(min(low, 0.0)))
            self._register(f"{point.name}#high", torch.tensor(max(high, 0.0)))

    def _add_layer(self, layer: Layer) -> None:
        scales = torch.from_numpy(np.array(layer.scales, np.float32))
        if layer.scheme in CLOSED:
            self._register(f"{layer.weight}#first", torch.ones_like(scales))
        elif self._learns:
            self._add_steps(layer.weight, scales)
        else:
            mean = mean_size(self._tensor(layer.weight), scales)
            self._register(f"{layer.weight}#first", scales / torch.where(mean > 0, mean, 1.0))

    def _add_steps(self, name: str, first: Tensor) -> None:
        self._register(f"{name}#first", first)
        flat = torch.ones(first.numel() if first.numel() > 1 else ())  # of rank 1: no weight decay
        self._register(f"{name}#step", nn.Parameter(flat))
        self._steps.append(f"{name}#step")

    def _value(self, name: str) -> Any:
        if name in self._layers:
            layer = self._layers[name]
            return FAKES[layer.scheme](self._tensor(name), self._step(layer))
        if name in self._biases:
            return self._bias(name, *self._biases[name])
        if name in self._scales:
            return self._activation_step(self._scales[name])
        if name in self._zeros and not self._learns:
            return self._moving(self._zeros[name])[1]
        return super()._value(name)

    def _step(self, layer: Layer) -> Tensor:
        """Scales of the weight's levels, at least as large as the int32 bias needs them."""
        weight, first = self._tensor(layer.weight), self._tensor(f"{layer.weight}#first")
        if layer.scheme in CLOSED:
            step = closed_form(layer.scheme, weight, first)
        elif self._learns:
            multiple = self._tensor(f"{layer.weight}#step").reshape(first.shape)
            elements = weight.numel() / first.numel()
            step = learned(multiple, first, elements, LARGEST[layer.scheme])
        else:
            step = first * mean_size(weight, first)
        step = step.clamp(min=torch.finfo(torch.float32).tiny * layer.factor)
        for bias, point in layer.biases:
            unit = self._activation_step(self._points[point]).detach()
            needed = self._tensor(bias).detach().abs().reshape(-1) * layer.factor / (unit * BIAS_MAX)
            needed = needed if first.numel() > 1 else needed.max()
            step = torch.maximum(step, needed.reshape(first.shape))
        return step

    def _bias(self, name: str, layer: Layer, point: str) -> Tensor:
        """round(b / s) * s with s the input's step times the weight's, as int32 holds it."""
        bias = self._tensor(name)
        with torch.no_grad():
            codes = self._step(layer).reshape(-1) / layer.factor
            unit = (codes * self._activation_step(self._points[point])).expand(bias.numel())
            unit = unit.reshape(bias.shape)
            value = torch.round(bias.double() / unit.double()).float() * unit
        return through(bias, value)

    def _activation_step(self, point: Point) -> Tensor:
        if not self._learns:
            step = self._moving(point)[0]
        else:
            first, zero = self._tensor(f"{point.name}#first"), float(self._tensor(point.zero))
            multiple = self._tensor(f"{point.name}#step")
            step = learned(multiple, first, point.elements, max(zero, 255 - zero))
        return step if point.cap is None else step.clamp(max=point.cap)

    @torch.no_grad()
    def _moving(self, point: Point) -> tuple[Tensor, Tensor]:
        """Step and zero point of the present range."""
        low, high = self._tensor(f"{point.name}#low"), self._tensor(f"{point.name}#high")
        step = (high - low) / 255
        step = torch.where(step < torch.finfo(torch.float32).tiny, 1.0, step)
        return step, torch.round(-low / step).clamp(0, 255)

    @torch.no_grad()
    def _observe(self, found: Mapping[str, Tensor]) -> None:
        count = self._tensor("#updates")
        count += 1
        if int(count) > self._updates:
            return
        for name, point in self._points.items():
            low, high = torch.aminmax(found[point.tensor])
            self._tensor(f"{name}#low").lerp_(low.float().clamp(max=0), MOMENTUM)
            self._tensor(f"{name}#high").lerp_(high.float().clamp(min=0), MOMENTUM)


@torch.no_grad()
def outputs(executor: Executor, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the graph for one batch, in eval mode."""
    executor.eval()
    given = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
    return {name: found.numpy() for name, found in executor(given).items()}
