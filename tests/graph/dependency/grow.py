"""Random small graphs from the rule table, as ONNX text."""

import onnx_ir as ir

from tests.graph.dependency.growth import Growth
from tests.graph.dependency.oracle import HEAD, net
from tests.graph.dependency.steps import STEPS, conv
from tests.graph.dependency.steps_more import MORE_STEPS

ALL = STEPS + MORE_STEPS


def grow(seed: int, nodes: int = 12) -> ir.Model:
    """Some random steps from the input; everything unread is pooled and classified by two Gemms."""
    g = Growth(seed)
    conv(g, g.images[0])
    for _ in range(nodes):
        x = g.pick()
        if x[1] > 2:
            ALL[g.number(*range(len(ALL)))](g, x)
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
    return net(
        f"{HEAD.replace('18]', '21]')} (float[N,3,6,6] x) => (float[N,4] y) {{ {body} }}",
        g.weights,
        seed,
        **g.constants,
    )
