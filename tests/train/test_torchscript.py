"""What can be traced, and what a TorchScript file gives; the oracle is stock onnxruntime on the same graph."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress import graph
from mlcompress.errors import ModelError, UnsupportedError
from mlcompress.train import agree, torchscript
from mlcompress.train.ops import OPS
from mlcompress.train.ops.node import Op

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '


def model(text: str, **tensors: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEAD + text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()
    )
    return ir.from_proto(proto)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write(given: ir.Model, folder: Path, feeds: Sequence[dict[str, np.ndarray]]) -> torch.jit.ScriptModule:
    """The file, written and then loaded again."""
    graph.save(given, folder / "twin.onnx")
    torchscript.write(given, folder / "x.ts", folder / "twin.onnx", feeds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        return torch.jit.load(folder / "x.ts")


BOTH = """net (float[N, T, 4] x, float[N, T, 4] other) => (float[N, S] flat, float[N, T, 4] sum) {
    sum = Add (x, other)
    lengths = Shape (sum)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    n = Slice (lengths, zero, one)
    t = Slice (lengths, one, two)
    four = Constant <value_floats = [4.0]> ()
    real = Cast <to = 1> (t)
    product = Mul (real, four)
    width = Cast <to = 7> (product)
    target = Concat <axis = 0> (n, width)
    flat = Reshape (sum, target)
}"""


def test_lengths_stay_dynamic_and_outputs_keep_their_order(tmp_path):
    def feed(n: int, t: int) -> dict[str, np.ndarray]:
        return {"x": normal(n, t, 4), "other": normal(n, t, 4, seed=1)}

    made = write(model(BOTH), tmp_path, [feed(2, 3), feed(3, 5), feed(1, 1)])
    x, other = feed(7, 9).values()
    flat, total = made(other=torch.from_numpy(other), x=torch.from_numpy(x))
    np.testing.assert_array_equal(total.numpy(), x + other)
    np.testing.assert_array_equal(flat.numpy(), (x + other).reshape(7, 36))


def test_arguments_are_identifiers_and_differ():
    names = ["x", "a/b", "a.b", "in", "1", "self", "", "a:b"]
    assert list(torchscript.arguments(names).values()) == [
        "x",
        "a_b",
        "a_b_2",
        "in_",
        "_1",
        "self_",
        "_",
        "a_b_3",
    ]


def test_names_that_python_has_taken_get_an_underscore(tmp_path):
    names = ["forward", "in", "a", "a.b", "a.c", "x..y", "weights/0:0"]
    proto = onnx.ModelProto()
    proto.CopyFrom(
        onnx.parser.parse_model(HEAD + "net (float[N, 2] v0) => (float[N, 2] out) { out = Relu (v0) }")
    )
    del proto.graph.node[:]
    for index, name in enumerate(names):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(2, 2, seed=index), name))
        last = "out" if index == len(names) - 1 else f"v{index + 1}"
        proto.graph.node.append(onnx.helper.make_node("MatMul", [f"v{index}", name], [last]))
    feeds = [{"v0": normal(n, 2)} for n in (2, 3)]
    made = write(ir.from_proto(proto), tmp_path, feeds)
    first = (tmp_path / "x.ts").read_bytes()
    assert set(made.state_dict()) == {"forward_", "in_", "a", "a_.b", "a_.c", "x._.y", "weights/0:0"}
    write(ir.from_proto(proto), tmp_path, feeds)  # torch has seen classes of these names by now
    assert (tmp_path / "x.ts").read_bytes() == first


STORED = """net (float[N, 32] x) => (float[N, 8] a, float[N, 8] b, float[N, 8] c) {
    w1 = DequantizeLinear <axis = 0> (codes, rows)
    f = Cast <to = 1> (more)
    w2 = Mul (f, columns)
    w3 = Cast <to = 1> (small)
    a = MatMul (x, w1)
    b = MatMul (x, w2)
    c = MatMul (x, w3)
}"""


def test_stored_weights_stay_as_small_as_they_are(tmp_path):
    codes = np.arange(-128, 128, dtype=np.int8).reshape(32, 8)
    given = model(
        STORED,
        codes=codes,
        more=codes[::-1].copy(),
        small=codes.astype(np.float16) / 64,
        rows=np.linspace(0.01, 0.02, 32, dtype=np.float32),
        columns=np.linspace(0.01, 0.02, 8, dtype=np.float32),
    )
    made = write(given, tmp_path, [{"x": normal(n, 32)} for n in (2, 3)])
    kinds = {name: tensor.dtype for name, tensor in made.state_dict().items()}
    assert (kinds["codes"], kinds["more"], kinds["small"]) == (torch.int8, torch.int8, torch.float16)
    with zipfile.ZipFile(tmp_path / "x.ts") as archive:
        sizes = [entry.file_size for entry in archive.infolist() if "/data/" in entry.filename]
    assert sorted(sizes) == [8 * 4, 32 * 4, 256, 256, 512]


def frozen(given: ir.Model) -> str:
    with pytest.raises(UnsupportedError) as caught:
        torchscript.refuse(given)
    return str(caught.value)


def test_shapes_computed_from_values_are_refused_by_name():
    text = "net (float[N, 4] x, int64[2] shape) => (float[A, B] y) { s = Abs (shape)\n [resh] y = Reshape (x, s) }"
    assert frozen(model(text)) == (
        "model: cannot write TorchScript: op Reshape (nodes resh): its input shape is computed from the values "
        "of the inputs; name the output .onnx"
    )


def test_ops_without_a_torch_form_are_refused_by_name():
    text = "net (float[N, 4] x) => (float[N, 4] y) { [odd] y = NonExistent (x) }"
    assert "op NonExistent (nodes odd) has no trainable form; name the output .onnx" in frozen(model(text))


def test_control_flow_in_bodies_is_refused_too():
    inner = "then_branch = c () => (float[N, 4] r) {r = Relu (x)}, else_branch = d () => (float[N, 4] s) {s = Neg (x)}"
    text = f"""net (float[N, 4] x, bool b) => (float[N, 4] y) {{
        [outer] y = If (b) <then_branch = e () => (float[N, 4] p) {{[inner] p = If (b) <{inner}>}},
                            else_branch = f () => (float[N, 4] q) {{q = Exp (x)}}>
    }}"""
    assert "op If (nodes outer, inner) would be frozen" in frozen(model(text))


def test_a_batch_that_is_frozen_after_all_is_found_with_its_op(tmp_path, monkeypatch):
    def build(node):
        def run(x):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return x.reshape(int(x.shape[0]), -1)  # what a careless op does

        return run

    honest = OPS["Flatten"]
    fields = {name: getattr(honest, name) for name in honest.__dataclass_fields__}
    monkeypatch.setitem(OPS, "Flatten", Op(**{**fields, "build": build}))
    text = "net (float[N, 2, 2] x) => (float[N, 4] y) { a = Relu (x)\n [flat] b = Flatten (a)\n y = Neg (b) }"
    with pytest.raises(UnsupportedError, match=r"op Flatten \(node flat\) is frozen .* run at x \[3, 2, 2\]"):
        write(model(text), tmp_path, [{"x": normal(n, 2, 2)} for n in (2, 3, 1)])


def test_a_file_that_differs_from_its_twin_is_refused(tmp_path):
    text = "net (float[N, 4] x) => (float[N, 4] y) { y = Mul (x, w) }"
    twin = model(text, w=np.full(4, 1.0001, np.float32))
    graph.save(twin, tmp_path / "twin.onnx")
    with pytest.raises(
        ModelError, match=r"output y is not what onnxruntime computes: off by .* where 1e-05 is"
    ):
        torchscript.write(
            model(text, w=np.ones(4, np.float32)),
            tmp_path / "x.ts",
            tmp_path / "twin.onnx",
            [{"x": normal(2, 4)}],
        )


@pytest.mark.parametrize(
    ("found", "expected", "limit", "agrees"),
    [
        ([1.0, -100.0], [1.0009, -100.0], agree.FLOAT, True),  # 1e-5 of 100, and of 1
        ([1.0, -100.0], [1.002, -100.0], agree.FLOAT, False),
        ([1.0, -100.0], [2.9, -100.0], agree.CODES, True),
        ([1.0, -100.0], [3.1, -100.0], agree.CODES, False),
        ([np.inf, 1.0], [np.inf, 1.0], agree.FLOAT, True),
        ([np.nan, 1.0], [0.0, 1.0], agree.CODES, False),
        ([1, 2], [1, 3], agree.FLOAT, False),
    ],
)  # fmt: skip
def test_difference(found, expected, limit, agrees):
    assert (agree.difference(np.array(found), np.array(expected), limit) is None) == agrees


def test_shapes_and_types_must_be_equal():
    zeros = np.zeros((2, 1), np.float32)
    assert (
        agree.difference(zeros, np.zeros((1, 2), np.float32), 1.0)
        == "float32 [2, 1] instead of float32 [1, 2]"
    )
    assert (
        agree.difference(zeros, zeros.astype(np.float64), 1.0) == "float32 [2, 1] instead of float64 [2, 1]"
    )


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ("y = Relu (x)", agree.FLOAT),
        ("w = DequantizeLinear (q, s)\n y = MatMul (x, w)", agree.FLOAT),
        ("a = QuantizeLinear (x, s)\n y = DequantizeLinear (a, s)", agree.CODES),
        ("a = Cast <to = 10> (x)\n b = Relu (a)\n y = Cast <to = 1> (b)", agree.CODES),
    ],
)
def test_the_tolerance_is_wide_only_where_activations_are_rounded(body, limit):
    given = model(
        f"net (float[N, 4] x) => (float[N, 4] y) {{ {body} }}",
        q=np.ones((4, 4), np.int8),
        s=np.array(0.1, np.float32),
    )
    assert agree.tolerance(given) == limit
