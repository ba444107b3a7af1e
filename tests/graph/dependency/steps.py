"""Steps of random graphs on images: convolutions, elementwise ops, and what moves channels."""

from tests.graph.dependency.growth import Growth, Image


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


STEPS = [
    conv, conv, grouped, depthwise, transposed, unary, scaled, batch_norm, joined, joined, excited, sliced,
    gathered, split, shuffled, last_axis, mixed, folded,
]  # fmt: skip
