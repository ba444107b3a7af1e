"""Small models as ONNX text, and clocks that tests turn themselves."""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from mlcompress.measure.timing import Clock


def parse(text: str, **weights: np.ndarray) -> bytes:
    """ModelProto bytes of `agraph (...) => (...) {...}` at opset 18, with `weights` as initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return bytes(model.SerializeToString())


def linear(weight: np.ndarray, batch: str | int = "N") -> bytes:
    """`logits` [N, C] = `x` [N, F] times `weight` float32 [F, C]."""
    features, classes = weight.shape
    return parse(
        f"g (float[{batch}, {features}] x) => (float[{batch}, {classes}] logits) "
        "{ logits = MatMul (x, w) }",
        w=weight.astype(np.float32),
    )


def chain(layers: int, width: int = 8) -> bytes:
    """`layers` MatMuls one after another on [N, width]."""
    steps = "\n".join(f"h{i + 1} = MatMul (h{i}, w)" for i in range(layers))
    text = f"g (float[N, {width}] h0) => (float[N, {width}] h{layers}) {{ {steps} }}"
    return parse(text, w=np.eye(width, dtype=np.float32))


class Hands:
    """A clock that moves only when told to, or by `tick` seconds whenever it is read."""

    def __init__(self, tick: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 0.0
        self.rested: list[float] = []
        self._tick = tick

    def read(self) -> float:
        self.now += self._tick()
        return self.now

    def rest(self, seconds: float) -> None:
        self.rested.append(seconds)
        self.now += seconds

    def clock(self) -> Clock:
        return Clock(self.read, self.read, self.rest)

    def call(self, durations: Iterable[float]) -> Callable[[], None]:
        """A call that takes the next of `durations` seconds each time."""
        left = iter(durations)

        def advance() -> None:
            self.now += next(left)

        return advance
