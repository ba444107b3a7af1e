"""Repeated layers: what counts as one, and that a net without some of them is the net built without them."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.graph.dependency.layers import drop, layers

D = 8
SHAPES = {"embed": (20, D), "fc": (D, 3), "c0": (D, 3, 1, 1), **dict.fromkeys(("gf", "bf"), (D,))}
SHAPES |= dict.fromkeys(["q", "k", "v", "o", "w1", "w2"], (D, D)) | dict.fromkeys(
    ["g1", "b1", "g2", "b2"], (D,)
)
SHAPES |= {"a": (D, D, 3, 3), "b": (D, D, 3, 3), "down": (D, D, 3, 3), "short": (D, D, 1, 1)}
TEXT = '<ir_version: 10, opset_import: ["" : 18]> f ({inputs}) => (float[n, 3] y) {{ {body} }}'
TOKENS = "int64[n, t] ids, float[n, 1, 1, t] mask"
IMAGE = "float[n, 3, 8, 8] image"


def built(text: str) -> ir.Model:
    """Numbers of each weight depend on its name alone."""
    proto = onnx.parser.parse_model(text)
    made = {out for node in proto.graph.node for out in node.output} | {i.name for i in proto.graph.input}
    for name in dict.fromkeys(name for node in proto.graph.node for name in node.input if name not in made):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        shape = SHAPES[name.rstrip("0123456789").rstrip("_") if "_" in name else name]
        array = (rng.normal(size=shape) / 2).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    graph.clean(model)
    return model


def attention(x: str, n: int) -> str:
    """To `o{n}`; the lengths of what it gives are not declared, as a Reshape leaves them."""
    return (
        f"q{n} = MatMul({x}, q_{n}) k{n} = MatMul({x}, k_{n}) v{n} = MatMul({x}, v_{n})"
        f" kt{n} = Transpose<perm=[0,2,1]>(k{n}) s{n} = MatMul(q{n}, kt{n}) h{n} = Unsqueeze(s{n}, one)"
        f" m{n} = Add(h{n}, mask) p{n} = Softmax(m{n}) z{n} = Squeeze(p{n}, one)"
        f" a{n} = MatMul(z{n}, v{n}) o{n} = MatMul(a{n}, o_{n})"
    )


def norm(x: str, y: str, which: str) -> str:
    return f"{y} = LayerNormalization({x}, g{which}, b{which})"


def post_norm(which: Sequence[int]) -> ir.Model:
    """LN(x + attention(x)), LN(x + f(x)), as BERT."""
    body, x = ["one = Constant<value_ints=[1]>() x = Gather(embed, ids)"], "x"
    for n in which:
        body += [attention(x, n), f"u{n} = Add(o{n}, {x})", norm(f"u{n}", f"l{n}", f"1_{n}")]
        body += [f"e{n} = MatMul(l{n}, w1_{n}) r{n} = Relu(e{n}) d{n} = MatMul(r{n}, w2_{n})"]
        body += [f"t{n} = Add(l{n}, d{n})", norm(f"t{n}", f"x{n}", f"2_{n}")]
        x = f"x{n}"
    body += [f"pooled = ReduceMean<keepdims=0>({x}, one) y = MatMul(pooled, fc)"]
    return built(TEXT.format(inputs=TOKENS, body=" ".join(body)))


def pre_norm(which: Sequence[int]) -> ir.Model:
    """x + attention(LN(x)), x + f(LN(x)), and a last norm that is no part of a layer, as GPT and ViT."""
    body, x = ["one = Constant<value_ints=[1]>() x = Gather(embed, ids)"], "x"
    for n in which:
        body += [norm(x, f"l{n}", f"1_{n}"), attention(f"l{n}", n), f"u{n} = Add(o{n}, {x})"]
        body += [norm(f"u{n}", f"i{n}", f"2_{n}"), f"e{n} = MatMul(i{n}, w1_{n}) r{n} = Relu(e{n})"]
        body += [f"d{n} = MatMul(r{n}, w2_{n}) x{n} = Add(u{n}, d{n})"]
        x = f"x{n}"
    body += [
        f"z = LayerNormalization({x}, gf, bf) pooled = ReduceMean<keepdims=0>(z, one) y = MatMul(pooled, fc)"
    ]
    return built(TEXT.format(inputs=TOKENS, body=" ".join(body)))


def resnet(which: Sequence[int]) -> ir.Model:
    """Blocks with a Relu behind the sum; between the second and the third one that halves the map."""
    body, x = ["s = Conv(image, c0) c = Relu(s)"], "c"
    pads = "<pads=[1,1,1,1]>"
    for n in range(4):
        if n == 2:
            body += [
                f"i = Conv<pads=[1,1,1,1], strides=[2,2]>({x}, down) j = Conv<strides=[2,2]>({x}, short)"
            ]
            body += ["w = Add(i, j) half = Relu(w)"]
            x = "half"
        if n in which:
            body += [f"k{n} = Conv{pads}({x}, a_{n}) r{n} = Relu(k{n}) l{n} = Conv{pads}(r{n}, b_{n})"]
            body += [f"t{n} = Add(l{n}, {x}) x{n} = Relu(t{n})"]
            x = f"x{n}"
    body += [f"g = GlobalAveragePool({x}) flat = Flatten(g) y = MatMul(flat, fc)"]
    return built(TEXT.format(inputs=IMAGE, body=" ".join(body)))


def answers(model: ir.Model) -> np.ndarray:
    rng = np.random.default_rng(0)
    feeds = {
        "ids": rng.integers(0, 20, (2, 5)),
        "mask": np.where(rng.random((2, 1, 1, 5)) < 0.3, -1e4, 0).astype(np.float32),
        "image": rng.normal(size=(2, 3, 8, 8)).astype(np.float32),
    }
    session = ort.InferenceSession(graph.to_bytes(model), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})[0]
    return found


@pytest.mark.parametrize("dead", [[0], [1, 2], [3], [0, 1, 3]])
@pytest.mark.parametrize("build", [post_norm, pre_norm, resnet])
def test_a_net_without_layers_is_the_net_built_without_them(
    build: Callable[[Sequence[int]], ir.Model], dead: list[int]
) -> None:
    model = build(range(4))
    found = layers(model)
    assert len(found) == 4
    short = graph.copy(model)
    drop(short, [found[n] for n in dead])
    wanted = build([n for n in range(4) if n not in dead])
    assert graph.parameters(short) == graph.parameters(wanted)
    assert graph.signature(short) == graph.signature(model)
    np.testing.assert_allclose(answers(short), answers(wanted), rtol=1e-5, atol=1e-6)  # float32
    assert not np.allclose(answers(short), answers(model), rtol=1e-2)
    assert sorted(short.graph.initializers) == sorted(wanted.graph.initializers)


def test_layers_are_named_by_the_tensors_at_their_ends() -> None:
    assert [(one.entry, one.name) for one in layers(post_norm(range(3)))] == [
        ("x", "x0"), ("x0", "x1"), ("x1", "x2")
    ]  # fmt: skip


def test_a_layer_that_ends_in_an_output_leaves_its_name() -> None:
    body = "c = Conv(image, c0) k = Conv<pads=[1,1,1,1]>(c, a_0) y = Add(c, k)"
    text = TEXT.format(inputs=IMAGE, body=body).replace("float[n, 3] y", f"float[n, {D}, 8, 8] y")
    model = built(text)
    (layer,) = layers(model)
    drop(model, [layer])
    assert graph.signature(model) == graph.signature(built(text))
    alone = built(text.replace(" k = Conv<pads=[1,1,1,1]>(c, a_0) y = Add(c, k)", " y = Identity(c)"))
    np.testing.assert_array_equal(answers(model), answers(alone))


@pytest.mark.parametrize(
    "body",
    [
        "k = Conv<pads=[1,1,1,1]>(c, a_0) d = Relu(k)",  # no sum
        "k = Relu(c) d = Add(c, k)",  # no weight
        "k = Conv<pads=[1,1,1,1]>(c, a_0) l = Conv<pads=[1,1,1,1]>(c, b_0) d = Add(k, l)",  # x itself is not added
    ],
)
def test_what_is_no_layer(body: str) -> None:
    assert layers(ended(body)) == []


def ended(body: str) -> ir.Model:
    """`body` from c to d, then a classifier."""
    end = " g = GlobalAveragePool(d) flat = Flatten(g) y = MatMul(flat, fc)"
    return built(TEXT.format(inputs=IMAGE, body="c = Conv(image, c0) " + body + end))


def test_layers_between_plain_convolutions_are_layers_without_them() -> None:
    pads = "<pads=[1,1,1,1]>"
    body = f"k = Conv{pads}(c, a_0) t = Add(c, k) u = Conv{pads}(t, b_0)"
    body += f" l = Conv{pads}(u, a_1) v = Add(u, l) d = Conv{pads}(v, b_1)"
    assert [(one.entry, one.name) for one in layers(ended(body))] == [("c", "t"), ("u", "v")]


def test_a_length_that_is_read_elsewhere_is_no_path() -> None:
    body = "k = Conv<pads=[1,1,1,1]>(c, a_0) t = Add(c, k) n = Shape(c) h = Relu(t)"
    body += " o = ConstantOfShape<value = float[1] {1.0}>(n) d = Mul(h, o)"
    model = ended(body)
    assert "Shape" in [node.op_type for node in model.graph]
    assert [(one.entry, one.name) for one in layers(model)] == [("c", "t")]


def test_a_layer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer 'x3'"):
        drop(post_norm(range(3)), [layers(post_norm(range(4)))[3]])
