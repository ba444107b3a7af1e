"""Does streaming calibration take less time and memory than a calibrator that keeps every activation?

    python benchmarks/calibration.py [--samples 512] [--whole]

A ResNet-18 at 224 x 224 (random weights, BatchNormalization folded) and smooth random pictures, read from
disk by both. Ours: the calibration of `mode: static` with `observer: entropy`. Theirs: onnxruntime's entropy
calibrator. `--whole` compares the whole commands as well: `mlcompress quantize` with its checks and
measurements, and `quantize_static` with per-channel weights. Each runs in a process of its own with one
thread, one after the other; time and peak memory are those of the process, imports included. Exit status 1
when a limit below is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

TIME, MEMORY = 0.5, 0.25
"""Limits on ours / theirs."""
THEIRS, SPARE = 32e6, 1e9
"""Bytes that their calibrator keeps of one sample, and that it needs besides: no more samples than fit."""
SCALE, MEAN, STD = 1 / 255, 0.5, 0.25
WIDTHS = (64, 128, 256, 512)


def resnet18(path: Path) -> None:
    """Basic blocks 2-2-2-2; every Conv keeps the size of its values, as one with BatchNormalization does."""
    rng, nodes, weights = np.random.default_rng(0), list[onnx.NodeProto](), list[onnx.TensorProto]()

    def conv(source: str, name: str, shape: tuple[int, int, int, int], stride: int, gain: float = 2.0) -> str:
        wide, fan = shape[0], int(np.prod(shape[1:]))
        values = rng.standard_normal(shape) * np.sqrt(gain / fan)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.weight"))
        bias = (rng.standard_normal(wide) * 0.1).astype(np.float32)
        weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
        inputs, pad = [source, f"{name}.weight", f"{name}.bias"], [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, pads=pad, strides=[stride] * 2))
        return name

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    last = node("Relu", [conv("x", "stem", (64, 3, 7, 7), 2)], "stem.relu")
    last = node("MaxPool", [last], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    width = 64
    for stage, wide in enumerate(WIDTHS):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage and not block else 1
            inner = node("Relu", [conv(last, f"{name}.conv1", (wide, width, 3, 3), stride)], f"{name}.relu1")
            inner = conv(inner, f"{name}.conv2", (wide, wide, 3, 3), 1, 0.5)
            if stride == 2:
                last = conv(last, f"{name}.short", (wide, width, 1, 1), stride, 1.0)
            last = node("Relu", [node("Add", [inner, last], f"{name}.add")], f"{name}.relu2")
            width = wide
    last = node("Flatten", [node("GlobalAveragePool", [last], "gap")], "flat")
    head = (rng.standard_normal((1000, 512)) / np.sqrt(512)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head.weight"))
    nodes.append(helper.make_node("Gemm", [last, "head.weight"], ["logits"], name="head", transB=1))
    ends = {"x": ["batch", 3, 224, 224], "logits": ["batch", 1000]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items())
    net = helper.make_graph(nodes, "resnet18", [x], [y], weights)
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def pictures(folder: Path, samples: int) -> None:
    """x.npy, uint8 [samples, 3, 224, 224]: noise of 7 x 7 patches, brightened, with fine noise on top."""
    folder.mkdir()
    shape = (samples, 3, 224, 224)
    held = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=shape)
    for index in range(samples):
        rng = np.random.default_rng(index)
        coarse = rng.normal(128, 50, (3, 7, 7)).repeat(32, axis=1).repeat(32, axis=2)
        held[index] = np.clip(coarse + rng.normal(0, 12, shape[1:]), 0, 255).astype(np.uint8)


def recipe(folder: Path) -> str:
    """For `mlcompress quantize`: the pictures as they lie on disk, the same numbers as `Reader` gives."""
    steps = f"[{{scale: {SCALE}}}, {{normalize: {{mean: [{MEAN}], std: [{STD}]}}}}]"
    return (
        f"data: {{calibration: {{path: {folder / 'pictures'}, inputs: {{x: x}}, transforms: {steps}}}}}\n"
        "quantize: {activations: {observer: entropy}, placement: all}\n"
    )


class Reader:
    """onnxruntime's CalibrationDataReader: one picture at a time."""

    def __init__(self, folder: Path) -> None:
        self._pictures = np.load(folder / "pictures" / "x.npy", mmap_mode="r")
        self._left: Iterator[np.ndarray] = iter(self._pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self._left, None)
        if picture is None:
            return None
        return {"x": ((picture[None].astype(np.float32) * np.float32(SCALE)) - MEAN) / np.float32(STD)}


def ours(folder: Path) -> None:
    from mlcompress import graph
    from mlcompress.data.open import open_data
    from mlcompress.quantize.calibrated import calibrate
    from mlcompress.quantize.recipe import QuantizeRecipe
    from mlcompress.recipe.load import load

    wish = load(folder / "recipe.yaml", QuantizeRecipe, ())
    model = graph.load(folder / "model.onnx")
    assert wish.data.calibration is not None
    signature = graph.signature(model)
    data = open_data(wish.data.calibration, signature, where="data.calibration", labels=False, seed=0)
    calibrate(model, wish.quantize, (), data)


def ours_whole(folder: Path) -> None:
    from mlcompress.cli.app import main

    arguments = ["-r", str(folder / "recipe.yaml"), "-o", str(folder / "ours.onnx"), "--quiet"]
    sys.argv = ["mlcompress", "quantize", str(folder / "model.onnx"), *arguments]
    main()


def theirs(folder: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, calibrate

    calibrate.CalibraterBase.create_inference_session = _one_thread
    calibrator = calibrate.create_calibrator(
        folder / "model.onnx",
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Entropy,
    )
    calibrator.collect_data(Reader(folder))
    calibrator.compute_data()


def theirs_whole(folder: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, calibrate, quantize_static

    calibrate.CalibraterBase.create_inference_session = _one_thread
    quantize_static(
        folder / "model.onnx",
        folder / "theirs.onnx",
        Reader(folder),
        per_channel=True,
        calibrate_method=CalibrationMethod.Entropy,
    )


def _one_thread(calibrator: Any) -> None:
    """As theirs, which leaves the number of threads to the machine."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    calibrator.infer_session = ort.InferenceSession(
        calibrator.augmented_model_path, options, providers=["CPUExecutionProvider"]
    )


PARTS = {part.__name__: part for part in (ours, ours_whole, theirs, theirs_whole)}


def measured(part: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak bytes of one part in a process of its own."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, __file__, "--part", part, "--folder", folder])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode not in (0, 1):  # 1: a gate that does not matter here
        sys.exit(f"{part}: ended with {child.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def compare(folder: Path, suffix: str) -> bool:
    """Print one comparison; are the limits kept?"""
    mine, other = measured(f"ours{suffix}", folder), measured(f"theirs{suffix}", folder)
    for name, (seconds, cpu, peak) in (("ours", mine), ("theirs", other)):
        print(f"  {name:7} {seconds:7.1f} s  {cpu:7.1f} s of CPU  peak {peak / 1e6:8.0f} MB")
    seconds, cpu, peak = (one / two for one, two in zip(mine, other, strict=True))
    print(f"  ours / theirs: time {seconds:.2f}, CPU {cpu:.2f}, memory {peak:.3f}", flush=True)
    return seconds <= TIME and peak <= MEMORY


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--whole", action="store_true", help="the whole commands too")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.part:
        PARTS[wish.part](wish.folder)
        return 0
    samples = min(wish.samples, int((psutil.virtual_memory().available - SPARE) // THEIRS))
    if samples < wish.samples:
        print(f"{samples} samples, not {wish.samples}: theirs keeps {THEIRS / 1e6:.0f} MB of each in memory")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resnet18(folder / "model.onnx")
        pictures(folder / "pictures", samples)
        (folder / "recipe.yaml").write_text(recipe(folder), encoding="utf-8")
        print(f"calibration alone, ResNet-18, {samples} samples of 224 x 224, entropy", flush=True)
        held = compare(folder, "")
        if wish.whole:
            print("whole commands", flush=True)
            held &= compare(folder, "_whole")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
