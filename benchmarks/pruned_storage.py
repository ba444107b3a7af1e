"""How small is a file of which nine weights of ten are zero, and does it cost speed?

    python benchmarks/pruned_storage.py [FOLDER with models/fmnist-resnet14-folded.onnx and data/*.npz]

`mlcompress prune` to 90 % zeros by magnitude, then `mlcompress quantize` to integers, with `storage: auto`
and with `storage: plain`, of a ResNet-14 (where the folder is there) and of a generated net of 10 million
parameters. Prints bytes, latency against plain int8 (interleaved in one process), session creation and the
peak memory of both. Exit status 1 when a limit in LIMITS is missed. Training is left out: it moves the
weights that stay, not how many there are.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlcompress import graph
from mlcompress.measure import latency
from mlcompress.recipe.sections import Measure

SHARED = Path(__file__).resolve().parents[2] / "shared"
LIMITS = {"fmnist-resnet14": 18.0, "generated": 26.0}
"""How many times smaller than fp32 the file must be."""
SLOWER = 1.05
"""Latency over that of plain int8."""
WIDTHS = (64, 256, 512, 512, 512, 512)


def generated(path: Path) -> None:
    """Six Conv 3x3 with Relu and a Gemm: 11 million parameters, normal numbers, 3x32x32 inputs."""
    rng, nodes, weights, source, width = np.random.default_rng(0), [], [], "x", 3
    for index, wide in enumerate(WIDTHS):
        array = rng.standard_normal((wide, width, 3, 3)) * np.sqrt(2 / (9 * width))
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"conv{index}.weight"))
        stride = 2 if index in (1, 2, 4) else 1
        nodes += [
            helper.make_node(
                "Conv", [source, f"conv{index}.weight"], [f"c{index}"], name=f"conv{index}",
                pads=[1, 1, 1, 1], strides=[stride, stride],
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"),
        ]  # fmt: skip
        source, width = f"r{index}", wide
    last = rng.standard_normal((1000, width)) / np.sqrt(width)
    weights.append(numpy_helper.from_array(last.astype(np.float32), "head.weight"))
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"], name="head", transB=1),
    ]
    shape = {"x": ["batch", 3, 32, 32], "y": ["batch", 1000]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape[name]) for name in ("x", "y")]
    net = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def command(*arguments: str | Path) -> None:
    """Run mlcompress; exit status 1 (slower than fp32, say) still leaves a file."""
    ended = subprocess.run([sys.executable, "-m", "mlcompress", *map(str, arguments)], check=False)
    if ended.returncode > 1:
        sys.exit(ended.returncode)


def measure(name: str, model: Path, data: str, folder: Path) -> bool:
    """Print the figures of one net; are they within the limits?"""
    pruned = folder / f"{name}-pruned.onnx"
    (folder / "prune.yaml").write_text(
        "prune: {granularity: element, ratio: 0.9}\nmeasure: {repeats: 3}\n", encoding="utf-8"
    )
    command("prune", model, "-r", folder / "prune.yaml", "-o", pruned)
    files, cards = {}, {}
    for storage in ("auto", "plain"):
        recipe, output = folder / f"{storage}.yaml", folder / f"{name}-{storage}.onnx"
        recipe.write_text(
            f"data: {{calibration: {data}}}\nquantize: {{storage: {storage}}}\n", encoding="utf-8"
        )
        command("quantize", pruned, "-r", recipe, "-o", output)
        rejected = output.with_name(output.name + ".rejected")
        files[storage] = rejected if rejected.exists() else output
        text = files[storage].with_name(files[storage].name + ".json").read_text(encoding="utf-8")
        cards[storage] = json.loads(text)
    signature = graph.signature(graph.load(model))
    feed = graph.example_feed(signature, graph.example_shapes(signature))
    times = latency.compare([files["plain"], files["auto"]], feed, Measure(), evidence=False)
    ratio = times[1].ratio
    sizes = {key: path.stat().st_size for key, path in {"fp32": model, **files}.items()}
    smaller = sizes["fp32"] / sizes["auto"]
    print(
        f"{name}: fp32 {sizes['fp32']:,} bytes, int8 {sizes['plain']:,}, stored {sizes['auto']:,}: "
        f"{smaller:.2f}x"
    )
    print(f"  latency / plain int8 {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
    for storage, card in cards.items():
        memory = card["memory"]["after"]
        print(
            f"  {storage}: session {memory['load_ms']:.0f} ms, peak {memory['peak_bytes'] / 1e6:.1f} MB",
            end="",
        )
        print(f", kernels {card['change']['details']['kernels']}")
    return smaller >= LIMITS[name] and ratio.low <= SLOWER


def main() -> int:
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    with tempfile.TemporaryDirectory() as name:
        folder, held = Path(name), []
        resnet = shared / "models" / "fmnist-resnet14-folded.onnx"
        if resnet.is_file():
            path = shared / "data" / "fashion-mnist-train12k.npz"
            scaled = "[{scale: 0.00392157}, {normalize: {mean: [0.286], std: [0.353]}}, {layout: NCHW}]"
            data = f"{{path: {path}, inputs: {{image: x}}, label: y, samples: 256, transforms: {scaled}}}"
            held.append(measure("fmnist-resnet14", resnet, data, folder))
        else:
            print(f"{resnet}: not here; left out")
        generated(folder / "generated.onnx")
        held.append(measure("generated", folder / "generated.onnx", "{synthetic: true, samples: 32}", folder))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
