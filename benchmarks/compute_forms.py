"""Time of the ways to compute one MatMul or one LSTM with small weights, beside fp32 and its error.

    python benchmarks/compute_forms.py [--quick]

MatMul of 1024 by 1024 at 1, 16 and 128 rows: MatMulNBits of 8 and 4 bits and dynamic int8. LSTM at batch 1,
inputs as wide as the hidden state: DynamicQuantizeLSTM. Minima of CPU time, interleaved, one thread; Gaussian
weights and inputs. Under a minute; `--quick` in ten seconds, less exactly.
"""

import argparse
import time
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.graph.session import session
from mlcompress.quantize import recurrent
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run

WIDTH = 1024
FORMS: dict[str, dict[str, Any]] = {
    "int8, block 128": {"mode": "weight_only", "compute": "nbits"},
    "int8, block 32": {
        "mode": "weight_only",
        "compute": "nbits",
        "weights": {"granularity": "per_block", "block": 32},
    },
    "int4, block 128": {"mode": "weight_only", "compute": "nbits", "weights": {"scheme": "int4"}},
    "int4, block 32": {
        "mode": "weight_only",
        "compute": "nbits",
        "weights": {"scheme": "int4", "granularity": "per_block", "block": 32},
    },
    "mode: dynamic": {"mode": "dynamic"},
}


def build(text: str, weights: dict[str, np.ndarray]) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]>' + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    model: ir.Model = ir.from_proto(proto)
    return model


def gaussian(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(len(shape)).standard_normal(shape)).astype(np.float32)


def measure(models: list[ir.Model], x: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    """Time / that of the first model, and decibels of its output over the difference from it."""
    sessions = [session(graph.to_bytes(model)) for model in models]
    outputs = [one.run(None, {"x": x})[0].astype(np.float64) for one in sessions]
    best, end = [np.inf] * len(models), time.monotonic() + seconds * len(models)
    while time.monotonic() < end:
        for index, one in enumerate(sessions):
            start = time.process_time()
            for _ in range(20):
                one.run(None, {"x": x})
            best[index] = min(best[index], time.process_time() - start)
    noise = [np.square(output - outputs[0]).sum() for output in outputs[1:]]
    decibels = [10 * np.log10(np.square(outputs[0]).sum() / value) for value in noise]
    return [(value / best[0], error) for value, error in zip(best[1:], decibels, strict=True)]


def lstm(hidden: int) -> tuple[ir.Model, ir.Model]:
    text = (
        f"g (float[s, 1, {hidden}] x) => (float[s, d, b, {hidden}] y) "
        f"{{ [rnn] y = LSTM <hidden_size = {hidden}> (x, w, r) }}"
    )
    scale = hidden**-0.5
    weights = {name: gaussian(1, 4 * hidden, hidden, scale=scale) for name in ("w", "r")}
    made = build(text, weights)
    recurrent.insert_lstm(made, lambda node: True)
    return build(text, weights), made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    seconds = 0.1 if parser.parse_args().quick else 0.7
    text = f"g (float[n, {WIDTH}] x) => (float[n, {WIDTH}] y) {{ [product] y = MatMul (x, w) }}"
    before = build(text, {"w": gaussian(WIDTH, WIDTH, scale=WIDTH**-0.5)})
    recipes = [QuantizeRecipe.model_validate({"quantize": form}) for form in FORMS.values()]
    models = [before, *(run(before, recipe, Context(seed=0))[0] for recipe in recipes)]
    for rows in (1, 16, 128):
        for name, (ratio, error) in zip(FORMS, measure(models, gaussian(rows, WIDTH), seconds), strict=True):
            print(f"MatMul, {rows:3} rows, {name:16} {ratio:.2f} of fp32, {error:.0f} dB", flush=True)
    recurrent.SMALLEST_HIDDEN = 0  # those that the rule leaves in float are shown as well
    for hidden in (32, 64, 128, 256):
        pair = list(lstm(hidden))
        for steps in (1, 16, 100):
            ((ratio, error),) = measure(pair, gaussian(steps, 1, hidden), seconds)
            print(f"LSTM, {hidden:3} units, {steps:3} steps {ratio:.2f} of fp32, {error:.0f} dB", flush=True)


if __name__ == "__main__":
    main()
