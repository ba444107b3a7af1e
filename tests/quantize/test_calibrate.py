import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress.data.dataset import from_arrays
from mlcompress.errors import DataError
from mlcompress.quantize.calibrate import observe
from mlcompress.quantize.observers import minmax
from tests.quantize import nets


def test_ranges_are_those_of_the_float_model() -> None:
    model, data = nets.residual(), nets.pictures(70)
    seen = observe(model, ["image", "r1", "logits"], data)
    found = {name: minmax(statistics) for name, statistics in seen.items()}
    logits = nets.outputs(model, data.take(np.arange(70)).inputs)[0]
    # 1e-5: onnxruntime blocks sums differently at another batch size.
    assert found["logits"] == pytest.approx((logits.min(), logits.max()), rel=1e-5)
    image = data.take(np.arange(70)).inputs["image"]
    assert found["image"] == (image.min(), image.max())
    assert found["r1"][0] == 0


def test_the_model_is_left_as_it_was() -> None:
    model = nets.residual()
    names = [value.name for value in model.graph.outputs]
    observe(model, ["r1"], nets.pictures(3))
    assert [value.name for value in model.graph.outputs] == names


def test_memory_does_not_grow_with_samples() -> None:
    model = nets.residual()
    names = ["image", "c1", "r1", "c2", "n2", "s", "r2", "p", "c3", "k"]

    def peak(count: int) -> int:
        data = nets.pictures(count)
        tracemalloc.start()
        observe(model, names, data)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(64)  # imports and caches
    few, many = peak(64), peak(512)
    activations = 512 * 4 * 8 * 8 * 16 * 7  # bytes that keeping seven maps of 16 x 8 x 8 would take
    # numpy reports its buffers to tracemalloc; a batch is 64 samples either way.
    assert many < few + activations / 50


def test_fixed_batch_sizes_are_respected() -> None:
    model = nets.build(
        "g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }",
        {},
    )
    data = from_arrays({"x": np.arange(15, dtype=np.float32).reshape(5, 3)})
    seen = observe(model, ["y"], data)["y"]
    assert seen.high == 14
    assert seen.counts.sum() == 18  # the fifth sample fills the third batch of two alone
    assert observe(model, ["y"], data.subset(np.array([4])))["y"].high == 14


def test_a_batch_of_minus_one_is_an_open_one() -> None:
    """As PaddlePaddle writes it."""
    model = nets.build("g (float[n, 3] x) => (float[n, 3] y) { y = Relu (x) }", {})
    model.graph.inputs[0].shape = ir.Shape([-1, 3])
    seen = observe(model, ["y"], from_arrays({"x": np.arange(15, dtype=np.float32).reshape(5, 3)}))["y"]
    assert (seen.high, seen.counts.sum()) == (14, 15)


def test_infinite_activations_are_refused() -> None:
    model = nets.build("g (float[n, 1] x) => (float[n, 1] y) { a = Log (x) y = Relu (a) }", {})
    with pytest.raises(DataError, match=r"data\.calibration: tensor 'a' holds NaN or infinity"):
        observe(model, ["a"], from_arrays({"x": np.zeros((4, 1), np.float32)}))
