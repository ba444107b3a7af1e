"""Random small graphs from the rule table, as ONNX text."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from tests.graph.dependency.oracle import HEAD, net

Image = tuple[str, int, int]
"""Name, channels, side of a value [N, C, side, side]."""


class Growth:
    """A graph that grows node by node; `images` are the values that can be read next."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.weights: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.images: list[Image] = [("x", 3, 6)]
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, *shape: int) -> str:
        name = self.name("w")
        self.weights[name] = shape
        return name

    def ints(self, *numbers: int) -> str:
        name = self.name("i")
        self.constants[name] = np.array(numbers, dtype=np.int64)
        return name

    def add(self, op: str, channels: int, side: int, *inputs: str) -> None:
        out = self.name("v")
        self.lines.append(f"{out} = {op}({', '.join(inputs)})")
        self.images.append((out, channels, side))

    def pick(self) -> Image:
        """A value that has been computed, rather a late one."""
        late = min(int(self.rng.geometric(0.4)), len(self.images))
        return self.images[-late]

    def number(self, *choices: int) -> int:
        return int(self.rng.choice(choices))


def conv(g: Growth, x: Image) -> None:
    out, k = g.number(4, 6, 8, 12), g.number(1, 3)
    bias = [g.weight(out)] if g.number(0, 1) else []
    g.add(
        f"Conv<pads=[{k // 2},{k // 2},{k // 2},{k // 2}]>", out, x[2], x[0], g.weight(out, x[1], k, k), *bias
    )


def grouped(g: Growth, x: Image) -> None:
    groups = 2 if x[1] % 2 == 0 else 1
    out = 2 * g.number(2, 3, 4)
    g.add(f"Conv<group={groups}>", out, x[2], x[0], g.weight(out, x[1] // groups, 1, 1))


def depthwise(g: Growth, x: Image) -> None:
    times = g.number(1, 2)
    g.add(f"Conv<group={x[1]}, pads=[1,1,1,1]>", times * x[1], x[2], x[0], g.weight(times * x[1], 1, 3, 3))


def transposed(g: Growth, x: Image) -> None:
    out = g.number(4, 6)
    g.add("ConvTranspose", out, x[2], x[0], g.weight(x[1], out, 1, 1), g.weight(out))


def unary(g: Growth, x: Image) -> None:
    g.add(str(g.rng.choice(["Relu", "Sigmoid", "HardSwish", "Tanh", "LeakyRelu"])), x[1], x[2], x[0])


def scaled(g: Growth, x: Image) -> None:
    g.add(str(g.rng.choice(["PRelu", "Mul", "Add", "Max"])), x[1], x[2], x[0], g.weight(x[1], 1, 1))


def batch_norm(g: Growth, x: Image) -> None:
    variance = g.name("w") + "_var"
    g.weights[variance] = (x[1],)
    g.add("BatchNormalization", x[1], x[2], x[0], *[g.weight(x[1]) for _ in range(3)], variance)


def joined(g: Growth, x: Image) -> None:
    """Elementwise with another value of the same shape, or Concat."""
    alike = [other for other in g.images if other[1:] == x[1:]]
    other = alike[g.number(*range(len(alike)))]
    if g.number(0, 1):
        g.add(str(g.rng.choice(["Add", "Mul", "Sub"])), x[1], x[2], x[0], other[0])
    else:
        g.add("Concat<axis=1>", 2 * x[1], x[2], x[0], other[0])


def excited(g: Growth, x: Image) -> None:
    """Each channel times a gate computed from all."""
    pooled, gate = g.name("v"), g.name("v")
    g.lines += [
        f"{pooled} = GlobalAveragePool({x[0]})",
        f"{gate} = Conv({pooled}, {g.weight(x[1], x[1], 1, 1)})",
    ]
    g.add("Mul", x[1], x[2], gate, x[0])


def sliced(g: Growth, x: Image) -> None:
    start = g.number(0, 1)
    g.add("Slice", x[1] - 1 - start, x[2], x[0], g.ints(start), g.ints(-1), g.ints(1))


def gathered(g: Growth, x: Image) -> None:
    picks = g.rng.integers(-x[1], x[1], 4)
    g.add("Gather<axis=1>", 4, x[2], x[0], g.ints(*picks.tolist()))


def split(g: Growth, x: Image) -> None:
    first, second = g.name("v"), g.name("v")
    size = g.number(1, x[1] - 1)
    g.lines.append(f"{first}, {second} = Split<axis=1>({x[0]}, {g.ints(size, x[1] - size)})")
    g.images += [(first, size, x[2]), (second, x[1] - size, x[2])]


def shuffled(g: Growth, x: Image) -> None:
    groups = 2 if x[1] % 2 == 0 else 1
    apart, turned = g.name("v"), g.name("v")
    g.lines.append(f"{apart} = Reshape({x[0]}, {g.ints(0, groups, x[1] // groups, x[2], x[2])})")
    g.lines.append(f"{turned} = Transpose<perm=[0,2,1,3,4]>({apart})")
    g.add("Reshape", x[1], x[2], turned, g.ints(-1, x[1], x[2], x[2]))


def last_axis(g: Growth, x: Image) -> None:
    """Channels last, a matrix product, channels first again."""
    turned, product = g.name("v"), g.name("v")
    out = g.number(4, 6)
    g.lines.append(f"{turned} = Transpose<perm=[0,2,3,1]>({x[0]})")
    g.lines.append(f"{product} = MatMul({turned}, {g.weight(x[1], out)})")
    g.add("Transpose<perm=[0,3,1,2]>", out, x[2], product)


def mixed(g: Growth, x: Image) -> None:
    """Channels that must stay."""
    g.add("Softmax<axis=1>", x[1], x[2], x[0])


def folded(g: Growth, x: Image) -> None:
    """Merge channels with pixels and take them apart again."""
    flat = g.name("v")
    g.lines.append(f"{flat} = Reshape({x[0]}, {g.ints(0, -1)})")
    g.add("Reshape", x[1], x[2], flat, g.ints(-1, x[1], x[2], x[2]))


STEPS: list[Callable[[Growth, Image], None]] = [
    conv, conv, grouped, depthwise, transposed, unary, scaled, batch_norm, joined, joined, excited, sliced,
    gathered, split, shuffled, last_axis, mixed, folded,
]  # fmt: skip


def grow(seed: int, nodes: int = 12) -> ir.Model:
    """Some random steps from the input; everything unread is pooled and classified by two Gemms."""
    g = Growth(seed)
    conv(g, g.images[0])
    for _ in range(nodes):
        x = g.pick()
        if x[1] > 2:
            STEPS[g.number(*range(len(STEPS)))](g, x)
    read = " ".join(g.lines)
    ends = [
        image
        for image in g.images
        if f"({image[0]}" not in read and f" {image[0]}" not in read.split("=", 1)[-1]
    ]
    ends = ends or g.images[-1:]
    features = 0
    flat = []
    for name, channels, side in ends:
        out = g.name("v")
        if g.number(0, 1):
            pooled = g.name("v")
            g.lines += [f"{pooled} = GlobalMaxPool({name})", f"{out} = Flatten({pooled})"]
            features += channels
        else:
            g.lines.append(f"{out} = Flatten({name})")
            features += channels * side * side
        flat.append(out)
    g.lines += [
        f"all = Concat<axis=1>({', '.join(flat)})",
        f"hidden = Gemm(all, {g.weight(features, 10)}, {g.weight(10)})",
        "active = Tanh(hidden)",
        f"y = Gemm<transB=1>(active, {g.weight(4, 10)})",
    ]
    body = "\n".join(g.lines)
    return net(f"{HEAD} (float[N,3,6,6] x) => (float[N,4] y) {{ {body} }}", g.weights, seed, **g.constants)
