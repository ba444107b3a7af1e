"""Quantise a model that does not fit one protobuf message, and say what memory the transform takes.

    python benchmarks/large_model.py [GIB]

Generates a model of GIB (default 2.25) GiB: an embedding and pairs of MatMul, all weights normal numbers in a
data file beside it. Then, for `weight_only`, `dynamic` and fp16:

- the transform alone (load, quantise, save) in a process of its own, with the peaks of its anonymous memory
  and of all that it has in memory, pages of mapped files included, above those before the model is read;
- the whole command, verification and measurement included: its wall time and the files written.

Exit status 1 when the anonymous peak is more than LIMIT times the largest tensor, or a command fails.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

WIDTH, HIDDEN = 2048, 8192
"""The largest tensor is 64 MiB."""
LIMIT = 6.0
RECIPES = {
    "weight_only": "quantize: {mode: weight_only}\n",
    "dynamic": "quantize: {mode: dynamic}\n",
    "fp16": "quantize: {mode: cast, weights: {scheme: fp16}}\n",
}
GATE = "measure: {repeats: 2, shapes: {ids: [1, 16]}}\n"


def generate(path: Path, size: float) -> None:
    """`ids` -> Gather -> blocks of x + Relu(x A) B -> y; weights are written one at a time."""
    rng, tensors, nodes = np.random.default_rng(0), [], []
    names = ["embedding"]
    pairs = max(1, round((size * 2**30 / 4 / WIDTH / HIDDEN - 1) / 2))
    nodes.append(helper.make_node("Gather", ["embedding", "ids"], ["x0"], name="gather"))
    for index in range(pairs):
        names += [f"up{index}", f"down{index}"]
        x, h, r, z, y = f"x{index}", f"h{index}", f"r{index}", f"z{index}", f"x{index + 1}"
        nodes += [
            helper.make_node("MatMul", [x, f"up{index}"], [h], name=f"matmul_up{index}"),
            helper.make_node("Relu", [h], [r], name=f"relu{index}"),
            helper.make_node("MatMul", [r, f"down{index}"], [z], name=f"matmul_down{index}"),
            helper.make_node("Add", [x, z], [y], name=f"add{index}"),
        ]
    nodes.append(helper.make_node("Identity", [f"x{pairs}"], ["y"], name="last"))
    with path.with_name("weights.bin").open("wb") as file:
        for name in names:
            shape = (WIDTH, HIDDEN) if name.startswith("up") else (HIDDEN, WIDTH)
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            facts = {"location": "weights.bin", "offset": file.tell(), "length": 4 * WIDTH * HIDDEN}
            for key, value in facts.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write((rng.standard_normal(shape, np.float32) * 0.02).tobytes())
            tensors.append(tensor)
    x = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", WIDTH])
    net = helper.make_graph(nodes, "large", [x], [y], tensors)
    model = helper.make_model(net, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def transform(model: Path, recipe: Path, output: Path) -> None:
    """Load, quantise and save, without verification; prints time and peaks as JSON."""
    from unittest import mock

    from mlcompress import graph
    from mlcompress.context import Context
    from mlcompress.measure.executed import Executed
    from mlcompress.quantize import run as quantize
    from mlcompress.quantize.recipe import QuantizeRecipe
    from mlcompress.recipe.load import load

    nothing = Executed("", {}, {}, {}, frozenset())
    wanted = load(str(recipe), QuantizeRecipe, ())
    watch = Watch()
    with (
        mock.patch.object(sys.modules["mlcompress.graph.load"], "_check_runs"),
        mock.patch.object(quantize, "check_stored", return_value=nothing),
    ):
        start = time.perf_counter()
        result, _ = quantize.run(graph.load(model), wanted, Context(seed=0, folder=output.parent))
        graph.save(result, output)
    print(json.dumps({"seconds": time.perf_counter() - start, **watch.peaks()}))


class Watch:
    """Peaks of this process's resident memory, looked at every few milliseconds."""

    def __init__(self) -> None:
        self._first, self._most, self._ended = self._now(), self._now(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def peaks(self) -> dict[str, int]:
        """Bytes above the start: `anonymous`, and `resident`, which has pages of mapped files as well."""
        self._ended.set()
        self._thread.join()
        return {name: self._most[name] - self._first[name] for name in self._first}

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            now = self._now()
            self._most = {name: max(now[name], most) for name, most in self._most.items()}

    @staticmethod
    def _now() -> dict[str, int]:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return {
            name: int(lines[key].split()[0]) * 1024
            for name, key in {"anonymous": "RssAnon", "resident": "VmRSS"}.items()
        }


def main() -> int:
    size, held = float(sys.argv[1]) if len(sys.argv) > 1 else 2.25, []
    largest = 4 * WIDTH * HIDDEN
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        model = folder / "large.onnx"
        generate(model, size)
        data = model.with_name("weights.bin").stat().st_size
        print(f"model: {data:,} bytes of weights, largest tensor {largest:,}", flush=True)
        for kind, text in RECIPES.items():
            recipe, output = folder / "recipe.yaml", folder / f"{kind}.onnx"
            recipe.write_text(text + GATE, encoding="utf-8")
            arguments = [sys.executable, __file__, "--transform", str(model), str(recipe), str(output)]
            told = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)
            peaks = told["anonymous"], told["resident"]
            print(f"{kind}: transform {told['seconds']:.1f} s, peaks above the start: ", end="")
            print(*(f"{peak / 1e6:.0f} MB ({peak / largest:.1f} x largest)" for peak in peaks), flush=True)
            held.append(told["anonymous"] <= LIMIT * largest)
            for path in folder.glob(f"{kind}.onnx*"):
                path.unlink()
            start = time.perf_counter()
            ended = subprocess.run(
                [sys.executable, "-m", "mlcompress", "quantize", model, "-r", recipe, "-o", output],
                check=False,
            )
            written = {path.name: path.stat().st_size for path in sorted(folder.glob(f"{kind}.onnx*"))}
            print(
                f"{kind}: exit {ended.returncode}, {time.perf_counter() - start:.1f} s, {written}", flush=True
            )
            for path in folder.glob(f"{kind}.onnx*"):
                path.unlink()
    return 0 if all(held) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--transform"]:
        transform(*map(Path, sys.argv[2:]))
    else:
        sys.exit(main())
