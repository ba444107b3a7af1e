"""Size, agreement and latency of quantised files, ours beside those of `onnxruntime.quantization`.

    python benchmarks/quantize_peers.py [FOLDER with models/ and data/]

ResNet-14 and MobileNet for Fashion-MNIST (top-1 on 10,000 test images) and EfficientNet-Lite0 (share of 36
crops with the arg max of fp32, and SNR of the logits). All get the same calibration samples. Ours: `mode:
static` as it is by default. Theirs: `quantize_static` (Q/DQ, uint8 values, int8 weights per channel) and
`quantize_dynamic` (int8 weights). Latency: all files of one net and fp32 interleaved in one process, one
thread, batch 1, ratio to fp32 with the least and greatest of the repeats.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mlcompress.measure import latency
from mlcompress.recipe.sections import Measure

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH = 50
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)[:, :, None, None]


def fashion(path: Path, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the nets want them, float32 [N, 1, 28, 28], and labels."""
    with np.load(path) as file:
        pixels, labels = file["x"][:count], file["y"][:count]
    return ((pixels[:, None] / 255 - 0.286) / 0.353).astype(np.float32), labels


def crops(path: Path) -> np.ndarray:
    """float32 [N, 3, 224, 224], normalised."""
    with np.load(path) as file:
        return ((file["x"] / np.float32(255) - IMAGENET[0]) / IMAGENET[1]).astype(np.float32)


class Reader:
    """onnxruntime's CalibrationDataReader: one sample at a time."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter([{name: sample[None]} for sample in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def logits(model: Path, name: str, samples: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [samples[first : first + BATCH] for first in range(0, len(samples), BATCH)]
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def quantised(model: Path, name: str, samples: np.ndarray, folder: Path) -> dict[str, Path]:
    """The files of all tools."""
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    files = {key: folder / f"{model.stem}-{key}.onnx" for key in ("ours", "static", "dynamic")}
    np.savez(folder / "calibration.npz", **{name: samples})
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"data: {{calibration: {{path: {folder / 'calibration.npz'}}}}}\nquantize: {{}}\n", encoding="utf-8"
    )
    arguments = map(str, ("quantize", model, "-r", recipe, "-o", files["ours"], "--quiet"))
    ended = subprocess.run([sys.executable, "-m", "mlcompress", *arguments], check=False)
    if ended.returncode == 1:  # a gate, such as `not slower`: the file is there all the same
        files["ours"] = files["ours"].with_name(files["ours"].name + ".rejected")
    elif ended.returncode:
        sys.exit(f"{model}: mlcompress ended with {ended.returncode}")
    quantize_static(
        model,
        files["static"],
        Reader(name, samples),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantize_dynamic(model, files["dynamic"], weight_type=QuantType.QInt8)
    return files


def report(
    model: Path, name: str, calibration: np.ndarray, test: np.ndarray, labels: np.ndarray | None
) -> None:
    """Print one line for each file of one net. `labels` None: agreement with fp32."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": model, **quantised(model, name, calibration, Path(folder))}
        times = latency.compare(list(files.values()), {name: test[:1]}, Measure(), evidence=False)
        exact = logits(model, name, test)
        wanted = exact.argmax(1) if labels is None else labels
        print(f"{model.stem}: {'agreement with fp32' if labels is None else 'top-1'} on {len(test)} samples")
        for (tool, path), time in zip(files.items(), times, strict=True):
            found = logits(path, name, test)
            noise = np.square(found - exact).sum()
            snr = "" if noise == 0 else f"  SNR {10 * np.log10(np.square(exact).sum() / noise):5.1f} dB"
            right = float(np.mean(found.argmax(1) == wanted))
            ratio = time.ratio
            span = "" if ratio is None else f"  x{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            print(f"  {tool:8} {path.stat().st_size:>10,} bytes  {right:.4f}{span}{snr}", flush=True)


def main() -> int:
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    models, data = shared / "models", shared / "data"
    if not models.is_dir():
        print(f"not measured: {models} is not here", file=sys.stderr)
        return 2
    calibration, _ = fashion(data / "fashion-mnist-train12k.npz", 256)
    test, labels = fashion(data / "fashion-mnist-test10k.npz")
    for net in ("fmnist-resnet14-folded", "fmnist-mobilenet-folded"):
        report(models / f"{net}.onnx", "image", calibration, test, labels)
    pictures = crops(data / "crops-calib.npz"), crops(data / "crops-eval.npz")
    report(models / "efficientnet-lite0.onnx", "x", *pictures, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
