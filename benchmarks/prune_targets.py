"""Are targets met? Prunes a model to several targets and measures the files with onnxruntime alone.

    python benchmarks/prune_targets.py MODEL -r RECIPE [--target macs=0.5] [--target latency=0.6] ...

RECIPE gives data and everything but the target. Prints what the card says and what a loop of its own finds:
the ratio of minima over interleaved blocks, one thread. Exits 1 when a latency is above its target by more
than 5 %, or another target is missed by more than 2 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

BLOCKS, CALLS = 60, 20


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(run: ort.InferenceSession, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Random inputs of the shapes that the card measured at."""
    rng, found = np.random.default_rng(0), {}
    for one in run.get_inputs():
        shape = shapes.get(one.name) or [size if isinstance(size, int) else 1 for size in one.shape]
        is_float = "float" in one.type
        found[one.name] = (
            rng.normal(size=shape).astype(np.float32)
            if is_float
            else np.ones(shape, np.int64 if "64" in one.type else np.int32)
        )
    return found


def ratio(before: Path, after: Path, shapes: dict[str, list[int]]) -> float:
    """Latency after / before: ratio of the least block of each, the two interleaved."""
    runs = [session(path) for path in (before, after)]
    feeds = [inputs(run, shapes) for run in runs]
    least = [float("inf")] * 2
    for _ in range(BLOCKS):
        for place, (run, feed) in enumerate(zip(runs, feeds, strict=True)):
            start = time.perf_counter()
            for _ in range(CALLS):
                run.run(None, feed)
            least[place] = min(least[place], time.perf_counter() - start)
    return least[1] / least[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-r", "--recipe", required=True)
    parser.add_argument("--target", action="append", default=[], help="NAME=SHARE; may be repeated")
    chosen = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.onnx"  # as the card's `before`: what nothing is removed from
        for number, text in enumerate(chosen.target or ["macs=0.5", "latency=0.6"]):
            name, share = text.split("=")
            output = Path(folder) / f"{number}.onnx"
            target = ["--set", f"prune.target={{{name}: {share}}}"]
            command = [sys.executable, "-m", "mlcompress", "prune", str(chosen.model), "-r", chosen.recipe]
            done = subprocess.run([*command, *target, "-o", str(output), "-q"], check=False)
            if done.returncode:
                return done.returncode
            card = json.loads(Path(f"{output}.json").read_text())
            if not clean.exists():
                write_clean(chosen.model, clean)
            own = ratio(clean, output, {k: v for k, v in card["shapes"].items() if v})
            reached = card["change"]["details"]["target"]["reached"]
            print(f"{text}: reached {reached}, card's latency {card['latency'][0]['ratio']}, own {own:.3f}")
            limit = 1.05 if name == "latency" else 1.02
            found = own if name == "latency" else reached
            missed |= found > limit * float(share)
    return int(missed)


def write_clean(model: Path, path: Path) -> None:
    """The input as every stage reads it, without an exporter's leftovers."""
    from mlcompress import graph

    graph.save(graph.load(model), path)


if __name__ == "__main__":
    sys.exit(main())
