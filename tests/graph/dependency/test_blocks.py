"""Residual blocks: what counts as one, and that removing it equals multiplying its branch by zero."""

import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.graph.dependency.blocks import Block, blocks, bypass, left_alone, mask_blocks
from tests.graph.dependency import nets
from tests.graph.dependency.oracle import HEAD, IMAGE, differ, inputs, net, run, same

WIDTH = 8


def stack(body: str, weights: dict[str, tuple[int, ...]], end: str = "e") -> ir.Model:
    """A stem, `body` (from c to `end`), pooling and a classifier."""
    text = (
        IMAGE
        + f"{{ s = Conv(x, stem)\n c = Relu(s)\n {body}\n"
        + f"g = GlobalAveragePool({end})\n f = Flatten(g)\n y = MatMul(f, fc) }}"
    )
    return net(text, {"stem": (WIDTH, 3, 1, 1), "fc": (WIDTH, 4), **weights})


def two_blocks() -> ir.Model:
    body = (
        "d = Conv<pads=[1,1,1,1]>(c, w0)\n e = Add(c, d)\n r = Relu(e)\n k = Conv(r, w1, b1)\n l = Sum(k, r)"
    )
    return stack(body, {"w0": (WIDTH, WIDTH, 3, 3), "w1": (WIDTH, WIDTH, 1, 1), "b1": (WIDTH,)}, end="l")


def check(model: ir.Model, dead: list[Block]) -> ir.Model:
    short = graph.copy(model)
    bypass(short, dead)
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(short)), full_check=True)
    assert graph.signature(short) == graph.signature(model)
    assert graph.parameters(short) == graph.parameters(model) - sum(block.params for block in dead)
    for batch in (1, 3):
        feeds = inputs(model, batch)
        masked = run(mask_blocks(model, dead), feeds)
        same(run(short, feeds), masked)
        assert differ(masked, run(model, feeds))
    return short


def test_blocks_in_graph_order_with_what_goes_with_them() -> None:
    found = blocks(two_blocks())
    assert [(b.entry, b.exit, b.place, b.tensors, b.params) for b in found] == [
        ("c", "e", 0, ("w0",), WIDTH * WIDTH * 9), ("r", "l", 1, ("w1", "b1"), WIDTH * WIDTH + WIDTH)
    ]  # fmt: skip


@pytest.mark.parametrize("chosen", [[0], [1], [0, 1]])
def test_bypass_equals_a_branch_times_zero(chosen: list[int]) -> None:
    model = two_blocks()
    found = blocks(model)
    short = check(model, [found[number] for number in chosen])
    for number, block in enumerate(found):
        assert (block.tensors[0] in short.graph.initializers) is (number not in chosen)


def test_one_after_the_other_equals_both_at_once() -> None:
    once, twice = two_blocks(), two_blocks()
    bypass(once, blocks(once))
    bypass(twice, blocks(twice)[:1])
    bypass(twice, blocks(twice))
    assert graph.to_bytes(once) == graph.to_bytes(twice)


def test_a_block_may_hold_what_dies_with_it_and_nothing_else() -> None:
    """The residual net's branch and its bias go; the batch norm before it stays."""
    model = nets.residual()
    (block,) = blocks(model)
    assert block.tensors == ("w1", "bias1")
    check(model, [block])


def test_a_sum_that_is_an_output_keeps_its_name() -> None:
    text = HEAD + "(float[N,6] x) => (float[N,6] y) { h = MatMul(x, w)\n y = Add(h, x) }"
    model = net(text, {"w": (6, 6)})
    short = check(model, blocks(model))
    assert [node.op_type for node in short.graph] == ["Identity"]


@pytest.mark.parametrize(
    ("why", "body", "weights"),
    [
        ("projected", "d = Conv(c, w0)\n h = Conv(c, w1)\n e = Add(d, h)", {"w0": 1, "w1": 1}),
        ("no matrix", "d = Mul(c, v)\n e = Add(d, c)", {"v": 0}),
        ("not from its input", "d = Conv(s, w0)\n e = Add(d, c)", {"w0": 1}),
        ("broadcast", "q = GlobalAveragePool(c)\n k = Conv(q, w0)\n m = Mul(k, c)\n e = Add(m, q)", {"w0": 1}),
        ("only a constant", "e = Add(c, v)", {"v": 0}),
    ],
)  # fmt: skip
def test_what_is_no_block(why: str, body: str, weights: dict[str, int]) -> None:
    shapes = {name: (WIDTH, WIDTH, 1, 1) if matrix else (WIDTH, 1, 1) for name, matrix in weights.items()}
    assert blocks(stack(body, shapes)) == [], why


def test_of_nested_blocks_the_inner_one() -> None:
    body = "a = Conv(c, w0)\n b = Conv(a, w1)\n d = Add(a, b)\n e = Add(d, c)"
    model = stack(body, {"w0": (WIDTH, WIDTH, 1, 1), "w1": (WIDTH, WIDTH, 1, 1)})
    assert [(block.entry, block.exit) for block in blocks(model)] == [("a", "d")]
    check(model, blocks(model))


def test_skip_keeps_the_block_of_a_node() -> None:
    model = two_blocks()
    inner = next(node.name for node in model.graph if node.op_type == "Conv" and node.inputs[1].name == "w0")
    assert [block.exit for block in blocks(model, skip=[str(inner)])] == ["l"]


def test_a_block_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no block"):
        bypass(nets.flatten_fc(), blocks(two_blocks()))


def test_every_residual_sum_that_stays_has_a_reason() -> None:
    body = (
        "d = Conv(c, w0)\n h = Conv(c, w1)\n p = Add(d, h)\n"  # a shortcut that is a layer
        "k = Conv(p, w2)\n m = Add(k, p)\n"  # goes
        "i = Conv(m, w3)\n n = Add(i, m)\n"  # named in skip
        "t = GlobalAveragePool(n)\n u = Conv(t, w4)\n v = Mul(u, n)\n q = Add(v, t)\n"  # t is broadcast
        "e = Add(q, bias)"  # no residual sum: not a line
    )
    shapes = {f"w{number}": (WIDTH, WIDTH, 1, 1) for number in range(5)}
    model = stack(body, {**shapes, "bias": (WIDTH, 1, 1)})
    kept = next(str(node.name) for node in model.graph if "w3" in [v.name for v in node.inputs if v])
    made = {str(node.name): str(node.outputs[0].name) for node in model.graph}
    told = {made[entry["name"]]: entry["reason"] for entry in left_alone(model, [kept])}
    assert list(told) == ["p", "n", "q"]
    assert "neither side is computed from the other" in told["p"]
    assert "has the shape of the sum" in told["q"]
    assert told["n"] == "`skip` names a node of it"
    assert [block.exit for block in blocks(model, [kept])] == ["m"]


def test_a_block_around_another_is_told() -> None:
    body = "a = Conv(c, w0)\n b = Conv(a, w1)\n d = Add(a, b)\n e = Add(d, c)"
    model = stack(body, {"w0": (WIDTH, WIDTH, 1, 1), "w1": (WIDTH, WIDTH, 1, 1)})
    (entry,) = left_alone(model)
    assert "holds another residual branch" in entry["reason"]
