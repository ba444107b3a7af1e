"""Fits the constants of `mlcompress.quantize.placement` on this machine.

    python benchmarks/placement_fit.py [--quick]

Builds convolutional nets (residual; depthwise with Relu6 or HardSwish) and perceptrons of several widths with
random weights, and times fp32 against int8 in several placements, interleaved, at batch 1 on one thread.
Least squares with fixed signs, weighted by 1 / fp32 time, then gives

    fp32 time - int8 time  ~  sum of constant x quantity     (microseconds; quantities of a placement)

and for every net int8 / fp32 time is printed: measured, by the fit, by the constants in use. `--quick` takes
two widths of each and three repeats (a minute): enough to see that it works, not to change a constant.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from mlcompress import graph
from mlcompress.data.dataset import from_arrays
from mlcompress.measure.latency import compare
from mlcompress.quantize import placement
from mlcompress.quantize.calibrated import calibrate
from mlcompress.quantize.integer import lay_out
from mlcompress.quantize.recipe import QuantizeSection
from mlcompress.recipe.sections import Measure

SWEEPS = 20_000
"""Of coordinate descent; the constants no longer change in the sixth digit long before."""


@dataclass
class Net:
    """Nodes and weights of a net that is being built; every method gives the name of what it makes."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        spread = np.sqrt(2 / np.prod(shape[1:]))
        self.weights[name] = (spread * self.rng.standard_normal(shape)).astype(np.float32)
        return name

    def conv(self, x: str, read: int, made: int, size: int = 3, *, stride: int = 1, group: int = 1) -> str:
        weight, pad = self.weight(made, read // group, size, size), size // 2
        return self.op("Conv", x, weight, pads=[pad] * 4, strides=[stride] * 2, group=group)

    def finish(self, output: str, shape: tuple[int, ...]) -> ir.Model:
        """The model from `x` [batch, *shape] to `output`."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        stored = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        body = helper.make_graph(self.nodes, "net", [x], [y], stored)
        model = ir.from_proto(helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)]))
        graph.infer_shapes(model)
        return model


def residual(net: Net, width: int) -> ir.Model:
    """Three stages of two 3x3 convolutions and a sum, on 28 x 28."""
    x = net.op("Relu", net.conv("x", 1, width))
    for _ in range(3):
        inner = net.op("Relu", net.conv(x, width, 2 * width, stride=2))
        short = net.conv(x, width, 2 * width, 1, stride=2)
        x = net.op("Relu", net.op("Add", net.conv(inner, 2 * width, 2 * width), short))
        width *= 2
    return net.finish(_classify(net, x, width), (1, 28, 28))


def depthwise(activation: Callable[[Net, str], str]) -> Callable[[Net, int], ir.Model]:
    """Four inverted residuals (1x1, depthwise 3x3, 1x1) with this activation, on 32 x 32."""

    def build(net: Net, width: int) -> ir.Model:
        x = activation(net, net.conv("x", 3, width, stride=2))
        for stride in (1, 2, 1, 2):
            wide = activation(net, net.conv(x, width, 4 * width, 1))
            wide = activation(net, net.conv(wide, 4 * width, 4 * width, stride=stride, group=4 * width))
            made = net.conv(wide, 4 * width, width, 1)
            x = net.op("Add", made, x) if stride == 1 else made
        return net.finish(_classify(net, x, width), (3, 32, 32))

    return build


def relu6(net: Net, x: str) -> str:
    net.weights |= {"zero": np.float32(0), "six": np.float32(6)}
    return net.op("Clip", x, "zero", "six")


def hardswish(net: Net, x: str) -> str:
    return net.op("HardSwish", x)


def perceptron(net: Net, width: int) -> ir.Model:
    """Four products on 32 rows, as in the feed-forward part of an encoder."""
    x = "x"
    for read, made in ((width, 4 * width), (4 * width, width)) * 2:
        x = net.op("Tanh", net.op("MatMul", x, net.weight(read, made)))
    return net.finish(x, (32, width))


def _classify(net: Net, x: str, width: int) -> str:
    mean = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.op("Gemm", mean, net.weight(10, width), transB=1)


NETS: dict[str, tuple[Callable[[Net, int], ir.Model], tuple[int, ...]]] = {
    "residual": (residual, (8, 64, 16, 32)),
    "relu6": (depthwise(relu6), (8, 64, 16, 32)),
    "hardswish": (depthwise(hardswish), (8, 64, 16, 32)),
    "perceptron": (perceptron, (64, 384, 128, 256)),
}
"""Widths: the first two are those of `--quick`."""


@dataclass(frozen=True)
class Row:
    """One placement of one net; times in microseconds."""

    name: str
    quantities: list[float]
    fp32: float
    int8: float


def measure(name: str, model: ir.Model, repeats: int) -> Iterator[Row]:
    """All distinct placements of a net against fp32."""
    shape = [size if isinstance(size, int) else 4 for size in model.graph.inputs[0].shape or ()]
    data = from_arrays({"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)})
    ready = calibrate(model, QuantizeSection(), (), data)
    choices = placement.candidates(ready.base.graph, ready.allowed, ready.sizes)
    choices = {key: nodes for key, nodes in choices.items() if nodes}
    made = [graph.to_bytes(ready.build(nodes, "plain")[0]) for nodes in choices.values()]
    feeds = data.take(np.arange(1)).inputs
    settings = Measure(repeats=repeats)
    first, *others = compare([graph.to_bytes(ready.base), *made], feeds, settings, evidence=False)
    for (key, nodes), latency in zip(choices.items(), others, strict=True):
        names = frozenset(nodes)
        layout = lay_out(ready.base.graph, lambda node, names=names: node.name in names)
        found = placement.quantities(layout, ready.sizes)
        yield Row(f"{name} {key}", list(found.values()), first.min_ms * 1e3, latency.min_ms * 1e3)


def fit(rows: list[Row]) -> np.ndarray:
    """The constants that minimise sum ((fp32 - int8 - predicted) / fp32)^2 with the signs of those in use.

    Coordinate descent: each constant in turn takes its best value, or 0 where that has the wrong sign.
    """
    signs = np.sign(list(placement.MICROSECONDS.values()))
    weights = 1 / np.array([row.fp32 for row in rows])
    inputs = np.array([row.quantities for row in rows]) * signs * weights[:, None]
    target = np.array([row.fp32 - row.int8 for row in rows]) * weights
    square, linear = inputs.T @ inputs, inputs.T @ target
    found = np.zeros(len(signs))
    for _ in range(SWEEPS):
        for index in np.flatnonzero(square.diagonal()):
            step = (linear[index] - square[index] @ found) / square[index, index]
            found[index] = max(0.0, found[index] + step)
    return found * signs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rows: list[Row] = []
    for kind, (build, widths) in NETS.items():
        for width in widths[:2] if quick else widths:
            model = build(Net(np.random.default_rng(0)), width)
            rows += measure(f"{kind}-{width}", model, 3 if quick else 7)
    fitted, used = fit(rows), np.array(list(placement.MICROSECONDS.values()))
    print(f"\n{'constant (microseconds)':32} {'fitted':>8} {'in use':>8}")
    for name, new, old in zip(placement.MICROSECONDS, fitted, used, strict=True):
        print(f"{name:32} {new:8.2f} {old:8.2f}")
    print(f"\n{'int8 / fp32 time':32} {'measured':>8} {'fitted':>8} {'in use':>8}  fp32 us")
    for row in rows:
        by = [1 - np.dot(constants, row.quantities) / row.fp32 for constants in (fitted, used)]
        print(f"{row.name:32} {row.int8 / row.fp32:8.2f} {by[0]:8.2f} {by[1]:8.2f} {row.fp32:8.0f}")


if __name__ == "__main__":
    main()
