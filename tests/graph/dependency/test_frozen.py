"""What cannot be proven stays, and is named."""

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.graph import dependency
from tests.graph.dependency import nets
from tests.graph.dependency.oracle import HEAD, IMAGE, check, net


def names(model: ir.Model, **options: list[str]) -> list[str]:
    return [family.name for family in dependency.analyse(model, **options).families]


def reasons(model: ir.Model) -> set[tuple[str, str]]:
    return {(item.op, item.reason) for item in dependency.analyse(model).frozen}


def around(line: str, **constants: np.ndarray) -> ir.Model:
    """Two convolutions, `line` (from b to c) between the second and the classifier."""
    text = (
        IMAGE
        + f"{{ a = Conv(x, w0)\n r = Relu(a)\n b = Conv(r, w1)\n {line}\n"
        + "g = GlobalMaxPool(c)\n f = Flatten(g)\n y = MatMul(f, fc) }"
    )
    return net(text, {"w0": (6, 3, 1, 1), "w1": (8, 6, 1, 1), "fc": (8, 4)}, **constants)


@pytest.mark.parametrize(
    ("line", "op", "constants"),
    [
        ("c = Softmax<axis=1>(b)", "Softmax", {}),
        ("m = ReduceMean<keepdims=1>(b, one)\n c = Sub(b, m)", "ReduceMean", {"one": np.array([1])}),
        ("c = LRN<size=3>(b)", "LRN", {}),
        ("c = CumSum(b, one)", "CumSum", {"one": np.array(1)}),
        ("c, i = TopK<axis=1>(b, k)", "TopK", {"k": np.array([8])}),
        ("c = Einsum<equation=\"nchw->nchw\">(b)", "Einsum", {}),
        ("c = Slice(b, s, e, ax, st)", "Slice", {
            "s": np.array([7]), "e": np.array([-9]), "ax": np.array([1]), "st": np.array([-1])}),
    ],
)  # fmt: skip
def test_channels_that_are_mixed_stay(line: str, op: str, constants: dict[str, np.ndarray]) -> None:
    model = around(line, **constants)
    assert names(model) == ["w0"]
    assert op in {item.op for item in dependency.analyse(model).frozen}
    check(model)


def test_mean_over_channels_does_not_leave_a_layer_without_inputs() -> None:
    """A tool that takes unknown ops as elementwise prunes the reader of a mean to zero channels."""
    lines = "m = ReduceMean<keepdims=1>(b, one)\n d = Conv(m, wide)\n c = Add(d, b)"
    model = around(lines, one=np.array([1]), wide=np.ones((8, 1, 1, 1), dtype=np.float32))
    assert names(model) == ["w0"]


def test_an_unknown_op_keeps_what_it_reads() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "custom" : 1]>
    g (float[N,3,8,8] x) => (float[N,4] y) {
      a = Conv(x, w0)
      b = custom.Mystery(a)
      y = custom.Mystery(b)
    }"""
    model = net(text, {"w0": (6, 3, 1, 1)})
    assert names(model) == []
    assert ("Mystery", "no rule for this op") in reasons(model)


@pytest.mark.parametrize("op", ["If", "Loop"])
def test_control_flow_keeps_what_its_bodies_read(op: str) -> None:
    bodies = {
        "If": "c = If(flag)<then_branch = t () => (float[N,8,8,8] p) { p = Relu(b) }, "
        "else_branch = e () => (float[N,8,8,8] q) { q = Neg(b) }>",
        "Loop": "c = Loop(two, flag, b)<body = l (int64 i, bool go, float[N,8,8,8] p) "
        "=> (bool on, float[N,8,8,8] q) { on = Identity(go)\n q = Add(p, b) }>",
    }
    text = f"""{HEAD} (float[N,3,8,8] x, bool flag) => (float[N,4] y) {{
      a = Conv(x, w0)
      r = Relu(a)
      b = Conv(r, w1)
      {bodies[op]}
      g = GlobalMaxPool(c)
      f = Flatten(g)
      y = MatMul(f, fc)
    }}"""
    model = net(text, {"w0": (6, 3, 1, 1), "w1": (8, 6, 1, 1), "fc": (8, 4)}, two=np.array(2))
    assert names(model) == ["w0"]
    assert op in {item.op for item in dependency.analyse(model).frozen}


def test_inputs_and_outputs_keep_their_channels() -> None:
    text = (
        HEAD
        + "(float[N,6,4,4] x) => (float[N,8,4,4] y, float[N,5,4,4] a) "
        + "{ a = Conv(x, w0)\n r = Relu(a)\n y = Conv(r, w1) }"
    )
    model = net(text, {"w0": (5, 6, 1, 1), "w1": (8, 5, 1, 1)})
    assert names(model) == []
    assert ("output", "an output of the graph") in reasons(model)


def test_a_weight_that_the_caller_may_replace_stays() -> None:
    proto = onnx.parser.parse_model(
        HEAD
        + "(float[N,3,4,4] x, float[6,3,1,1] w0) => (float[N,2,4,4] y) { a = Conv(x, w0)\n y = Conv(a, w1) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w0", (6, 3, 1, 1)), ("w1", (2, 6, 1, 1))):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.random(shape, dtype=np.float32), name)
        )
    model = ir.serde.deserialize_model(proto)
    assert names(model) == []
    assert ("input", "the caller may replace this initializer") in reasons(model)


def test_skip_keeps_the_output_of_the_named_node() -> None:
    model = around("c = Relu(b)")
    assert names(model) == ["w0", "w1"]
    (second,) = [node.name for node in model.graph if node.op_type == "Conv" and node.inputs[1].name == "w1"]
    assert names(model, skip=[second]) == ["w0"]
    assert ("Conv", "named in skip") in {
        (f.op, f.reason) for f in dependency.analyse(model, skip=[second]).frozen
    }


def test_a_reader_of_lengths_keeps_them() -> None:
    model = around("s = Shape(b)\n p = Gather(s, one)\n q = Cast<to=1>(p)\n c = Div(b, q)", one=np.array(1))
    # graph.load folds such chains; undo that by asking for the length of a computed value
    assert set(names(model)) <= {"w0", "w1"}
    check(model)


def test_unnamed_ranks_are_frozen_not_guessed(tmp_path: Path) -> None:
    model = nets.residual()
    for node in model.graph:
        if node.op_type == "GlobalAveragePool":
            node.op_type = "Mystery"
            node.domain = "custom"
            node.outputs[0].shape = None
    assert names(model) == []
    assert ("Flatten", "the rank of an input is not known") not in reasons(model)
    assert graph.parameters(model) > 0
