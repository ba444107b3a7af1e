"""Does cleaning make an export that keeps BatchNormalization as fast as a folded one?

    python benchmarks/clean_speed.py [FOLDER with fmnist-*-bn.onnx and fmnist-*-folded.onnx]

For each net: latency of the export as it is, and of what `graph.load` makes of it, over that of the folded
export. Stock onnxruntime, CPU, 1 thread, batch 1; calls interleaved in random order in one process; ratio of
minima, with the smallest and largest of the repeats. Exit status 1 when a cleaned export takes more than 1.03
times as long as the folded one.
"""

import sys
import time
from pathlib import Path

import numpy as np

from mlcompress import graph
from mlcompress.graph.session import session

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"
NETS = ("fmnist-resnet14", "fmnist-mobilenet")
REPEATS, ROUNDS, CALLS = 7, 40, 5
LIMIT = 1.03


def minima(sessions: list, feed: dict[str, np.ndarray], rng: np.random.Generator) -> list[float]:
    """Fastest call of each session in milliseconds, blocks of calls interleaved in random order."""
    best = [np.inf] * len(sessions)
    for _ in range(ROUNDS):
        for index in rng.permutation(len(sessions)):
            for _ in range(CALLS):
                start = time.perf_counter()
                sessions[index].run(None, feed)
                best[index] = min(best[index], (time.perf_counter() - start) * 1e3)
    return best


def compare(folder: Path, net: str) -> float:
    """Print one line for a net; returns the cleaned export's ratio."""
    kept = folder / f"{net}-bn.onnx"
    cleaned = graph.load(kept)
    sessions = [session(kept), session(graph.to_bytes(cleaned)), session(folder / f"{net}-folded.onnx")]
    feed = graph.example_feed(graph.signature(cleaned), graph.example_shapes(graph.signature(cleaned)))
    rng = np.random.default_rng(0)
    minima(sessions, feed, rng)  # warm-up
    repeats = np.array([minima(sessions, feed, rng) for _ in range(REPEATS)])
    ratios = repeats[:, :2] / repeats[:, 2:]
    middle, low, high = np.median(ratios, axis=0), ratios.min(axis=0), ratios.max(axis=0)
    print(
        f"{net:18} folded {repeats[:, 2].min():.3f} ms"
        f"  uncleaned x{middle[0]:.2f} ({low[0]:.2f}-{high[0]:.2f})"
        f"  cleaned x{middle[1]:.3f} ({low[1]:.3f}-{high[1]:.3f})"
    )
    return float(middle[1])


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    missing = [net for net in NETS if not (folder / f"{net}-bn.onnx").is_file()]
    if missing:
        print(f"not measured: {folder} has no {', '.join(missing)}", file=sys.stderr)
        return 2
    return int(max(compare(folder, net) for net in NETS) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
