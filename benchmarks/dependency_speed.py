"""How long does the channel analysis take, and does it grow with the size of the graph?

    python benchmarks/dependency_speed.py

Prints the time of `analyse` for ResNet-50 (the graph that the onnx package ships; median and range of 5), and
for residual nets of up to 10,000 nodes whose families and residual blocks grow with them. One thread. Exit
status 1 when ResNet-50 takes more than 0.3 s, or the largest net more than 3 times the time per node of one
of a tenth of its size.
"""

import statistics
import sys
import time
from pathlib import Path

import onnx
import onnx_ir as ir

from mlcompress import graph
from mlcompress.graph import dependency
from mlcompress.graph.dependency.blocks import blocks
from mlcompress.graph.settle import settle

RESNET = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
REPEATS = 5
SIZES = (1000, 2500, 5000, 10000)
LIMIT, GROWTH = 0.3, 3.0


def chain(nodes: int) -> ir.Model:
    """Residual blocks (Conv, Relu, Conv, Add, Relu) of 8 channels with 16 inside, five nodes each."""
    lines, weights = ["v0 = Conv(x, w0)"], {"w0": (8, 3, 1, 1)}
    for number in range(nodes // 5):
        weights |= {f"a{number}": (16, 8, 1, 1), f"b{number}": (8, 16, 1, 1)}
        lines += [
            f"p{number} = Conv(v{number}, a{number})",
            f"q{number} = Relu(p{number})",
            f"r{number} = Conv(q{number}, b{number})",
            f"s{number} = Add(r{number}, v{number})",
            f"v{number + 1} = Relu(s{number})",
        ]
    lines += [f"g = GlobalAveragePool(v{nodes // 5})", "f = Flatten(g)", "y = MatMul(f, fc)"]
    weights["fc"] = (8, 4)
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,4] y) {' + "\n".join(
        lines
    )
    proto = onnx.parser.parse_model(text + "}")
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.helper.make_tensor(name, 1, shape, [0.0] * _size(shape)))
    model = ir.serde.deserialize_model(proto)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    settle(model)
    return model


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def seconds(model: ir.Model) -> list[float]:
    """Of `analyse`, sorted."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        dependency.analyse(model)
        found.append(time.perf_counter() - start)
    return sorted(found)


def main() -> int:
    model = graph.load(RESNET)
    times = seconds(model)
    families = len(dependency.analyse(model).families)
    print(
        f"ResNet-50: {statistics.median(times):.3f} s ({times[0]:.3f}-{times[-1]:.3f}), {families} families"
    )
    per_node = {}
    for size in SIZES:
        model = chain(size)
        middle = statistics.median(seconds(model))
        start = time.perf_counter()
        found = len(blocks(model))
        depth = time.perf_counter() - start
        nodes = len(list(model.graph))
        per_node[size] = middle / nodes
        families = len(dependency.analyse(model).families)
        print(
            f"{nodes:6} nodes: {middle:.3f} s, {per_node[size] * 1e6:.0f} us a node, {families} families; "
            f"{found} blocks in {depth:.3f} s"
        )
    growth = per_node[SIZES[-1]] / per_node[SIZES[0]]
    print(f"growth of the time per node from {SIZES[0]} to {SIZES[-1]}: {growth:.2f}")
    return int(statistics.median(times) > LIMIT or growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
