import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress.errors import UnsupportedError
from mlcompress.quantize.accuracy import TRIES, give_back, signal_to_noise, worst_first
from tests.quantize import nets

LAYERS = [f"layer{index}" for index in range(20)]


def bench(needed: int) -> tuple[Callable[[Sequence[str]], ir.Model], Callable[[ir.Model], float], list[int]]:
    """Graphs that carry the number of layers in float as their name; the metric is 1 from `needed` layers on."""
    built: list[int] = []
    template = nets.perceptron()

    def build(names: Sequence[str]) -> ir.Model:
        built.append(len(names))
        template.graph.name = str(len(names))
        return template

    def evaluate(model: ir.Model) -> float:
        return 1.0 if int(str(model.graph.name)) >= needed else 0.5

    return build, evaluate, built


@pytest.mark.parametrize("needed", [0, 1, 2, 7, 19, 20])
def test_no_more_layers_than_needed(needed: int) -> None:
    build, evaluate, built = bench(needed)
    names, metrics = give_back(lambda: LAYERS, build, evaluate, lambda value: value >= 1)
    assert names == LAYERS[:needed]
    searched = 2 + math.ceil(math.log2(len(LAYERS)))
    assert len(metrics) == len(built) <= searched + min(TRIES, max(0, needed - 1))


def test_layers_that_turn_out_not_to_matter_stay_integer() -> None:
    """Only layers 3 and 6 count, though 0 to 6 rank as the worst."""
    template = nets.perceptron()

    def build(names: Sequence[str]) -> ir.Model:
        template.graph.name = " ".join(names)
        return template

    def evaluate(model: ir.Model) -> float:
        return float({"layer3", "layer6"} <= set(str(model.graph.name).split()))

    names, metrics = give_back(lambda: LAYERS, build, evaluate, lambda value: value >= 1)
    assert names == ["layer3", "layer6"]
    assert evaluate(build(names)) == 1
    assert len(metrics) < len(LAYERS)


def test_a_limit_that_cannot_hold_is_refused() -> None:
    build, evaluate, _ = bench(21)
    with pytest.raises(UnsupportedError, match=r"the metric is 0\.5 even with every layer in float"):
        give_back(lambda: LAYERS, build, evaluate, lambda value: value >= 1)


def test_signal_to_noise() -> None:
    reference = np.array([3.0, 4.0])
    assert signal_to_noise(reference, reference + 0.5) == pytest.approx(10 * math.log10(25 / 0.5))
    assert signal_to_noise(reference, reference) == math.inf


def test_worst_first_keeps_the_order_of_ties() -> None:
    assert worst_first({"a": 30.0, "b": 10.0, "c": 30.0, "d": math.inf}) == ["b", "a", "c", "d"]
