"""Steps of random graphs on images: sequences (attention, recurrent layers), norms, spatial moves, Q/DQ."""

import numpy as np

from tests.graph.dependency.growth import Growth, Image


def _tokens(g: Growth, x: Image) -> str:
    """[N, C, S, S] -> [N, S*S, C]."""
    flat, turned = g.name("v"), g.name("v")
    g.lines += [
        f"{flat} = Reshape({x[0]}, {g.ints(0, x[1], -1)})",
        f"{turned} = Transpose<perm=[0,2,1]>({flat})",
    ]
    return turned


def _image(g: Growth, tokens: str, channels: int, side: int) -> None:
    turned = g.name("v")
    g.lines.append(f"{turned} = Transpose<perm=[0,2,1]>({tokens})")
    g.add("Reshape", channels, side, turned, g.ints(0, -1, side, side))


def attention(g: Growth, x: Image) -> None:
    """Heads over pixels; query, key and value from three matrices."""
    heads, width, out, tokens = g.number(2, 3), 4, g.number(4, 6), _tokens(g, x)
    parts = []
    for order in ("0,2,1,3", "0,2,3,1", "0,2,1,3"):
        made, apart, turned = g.name("v"), g.name("v"), g.name("v")
        g.lines += [
            f"{made} = MatMul({tokens}, {g.weight(x[1], heads * width)})",
            f"{apart} = Reshape({made}, {g.ints(0, x[2] ** 2, -1, width)})",
            f"{turned} = Transpose<perm=[{order}]>({apart})",
        ]
        parts.append(turned)
    names = [g.name("v") for _ in range(6)]
    g.lines += [
        f"{names[0]} = MatMul({parts[0]}, {parts[1]})",
        f"{names[1]} = Softmax<axis=-1>({names[0]})",
        f"{names[2]} = MatMul({names[1]}, {parts[2]})",
        f"{names[3]} = Transpose<perm=[0,2,1,3]>({names[2]})",
        f"{names[4]} = Reshape({names[3]}, {g.ints(0, x[2] ** 2, heads * width)})",
        f"{names[5]} = MatMul({names[4]}, {g.weight(heads * width, out)})",
    ]
    _image(g, names[5], out, x[2])


def recurrent(g: Growth, x: Image) -> None:
    """A recurrent layer over pixels, in one direction or two."""
    op = str(g.rng.choice(["LSTM", "GRU", "RNN"]))
    gates, ways, units = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], g.number(1, 2), g.number(3, 4)
    turned, y, ahead = g.name("v"), g.name("v"), g.name("v")
    direction = "forward" if ways == 1 else "bidirectional"
    g.lines += [
        f"{turned} = Transpose<perm=[1,0,2]>({_tokens(g, x)})",
        f'{y} = {op}<hidden_size={units}, direction="{direction}">({turned}, '
        f"{g.weight(ways, gates * units, x[1])}, {g.weight(ways, gates * units, units)})",
        f"{ahead} = Transpose<perm=[2,1,3,0]>({y})",
    ]
    g.add("Reshape", ways * units, x[2], ahead, g.ints(0, ways * units, x[2], x[2]))


def layer_norm(g: Growth, x: Image) -> None:
    """Over channels, as an op; soft."""
    made = g.name("v")
    g.lines.append(f"{made} = LayerNormalization({_tokens(g, x)}, {g.weight(x[1])}, {g.weight(x[1])})")
    _image(g, made, x[1], x[2])


def spelt_norm(g: Growth, x: Image) -> None:
    """Over channels, spelt out as exporters below opset 17 do; soft."""
    n = [g.name("v") for _ in range(6)]
    two, epsilon = g.number_constant(2.0), g.number_constant(0.01)
    g.lines += [
        f"{n[0]} = ReduceMean<keepdims=1>({x[0]}, {g.ints(1)})",
        f"{n[1]} = Sub({x[0]}, {n[0]})",
        f"{n[2]} = Pow({n[1]}, {two})",
        f"{n[3]} = ReduceMean<keepdims=1>({n[2]}, {g.ints(1)})",
        f"{n[4]} = Add({n[3]}, {epsilon})",
        f"{n[5]} = Sqrt({n[4]})",
    ]
    g.add("Div", x[1], x[2], n[1], n[5])


def group_norm(g: Growth, x: Image) -> None:
    groups = 2 if x[1] % 2 == 0 else x[1]
    g.add(f"GroupNormalization<num_groups={groups}>", x[1], x[2], x[0], g.weight(x[1]), g.weight(x[1]))


def instance_norm(g: Growth, x: Image) -> None:
    g.add("InstanceNormalization", x[1], x[2], x[0], g.weight(x[1]), g.weight(x[1]))


def resized(g: Growth, x: Image) -> None:
    wide = g.name("v")
    scales = g.name("c")
    g.constants[scales] = np.array([1, 1, 2, 2], dtype=np.float32)
    g.lines.append(f'{wide} = Resize<mode="nearest">({x[0]}, , {scales})')
    g.add("AveragePool<kernel_shape=[2,2], strides=[2,2]>", x[1], x[2], wide)


def depth_to_space(g: Growth, x: Image) -> None:
    """There, and back by SpaceToDepth or pooling."""
    if x[1] % 4:
        return
    wide, mode = g.name("v"), str(g.rng.choice(["DCR", "CRD"]))
    g.lines.append(f'{wide} = DepthToSpace<blocksize=2, mode="{mode}">({x[0]})')
    if g.number(0, 1):
        g.add("SpaceToDepth<blocksize=2>", x[1], x[2], wide)
    else:
        g.add("MaxPool<kernel_shape=[2,2], strides=[2,2]>", x[1] // 4, x[2], wide)


def padded(g: Growth, x: Image) -> None:
    wide = g.name("v")
    g.lines.append(f"{wide} = Pad({x[0]}, {g.ints(0, 0, 1, 1, 0, 0, 1, 1)})")
    g.add("MaxPool<kernel_shape=[3,3]>", x[1], x[2], wide)


def expanded(g: Growth, x: Image) -> None:
    """A weight per channel, repeated over the pixels."""
    wide = g.name("v")
    g.lines.append(f"{wide} = Expand({g.weight(x[1], 1, 1)}, {g.ints(1, x[1], x[2], x[2])})")
    g.add("Add", x[1], x[2], wide, x[0])


def tiled(g: Growth, x: Image) -> None:
    g.add("Tile", 2 * x[1], x[2], x[0], g.ints(1, 2, 1, 1))


def quantised(g: Growth, x: Image) -> None:
    """A convolution whose int8 weights have a scale and a zero point per output."""
    out, names = g.number(4, 6), [g.name("c") for _ in range(3)]
    g.constants[names[0]] = g.rng.integers(-127, 128, (out, x[1], 1, 1)).astype(np.int8)
    g.constants[names[1]] = (0.001 + 0.01 * g.rng.random(out)).astype(np.float32)
    g.constants[names[2]] = g.rng.integers(-3, 4, out).astype(np.int8)
    decoded = g.name("v")
    g.lines.append(f"{decoded} = DequantizeLinear<axis=0>({', '.join(names)})")
    g.add("Conv", out, x[2], x[0], decoded)


def chosen(g: Growth, x: Image) -> None:
    """Where: a channel's own threshold decides."""
    test = g.name("v")
    g.lines.append(f"{test} = Greater({x[0]}, {g.weight(x[1], 1, 1)})")
    g.add("Where", x[1], x[2], test, x[0], g.weight(x[1], 1, 1))


MORE_STEPS = [
    attention, recurrent, layer_norm, spelt_norm, group_norm, instance_norm, resized, depth_to_space, padded,
    expanded, tiled, quantised, chosen,
]  # fmt: skip
