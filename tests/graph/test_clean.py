"""Cleaning rules one by one. Oracle: onnxruntime on the file as it was; DISABLE_ALL, so equality is exact."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlcompress import graph
from mlcompress.errors import UnsupportedError
from tests.graph.onnx_text import cleaned, numbers, ops, run

Write = Callable[..., Path]


def test_constants_become_initializers_also_in_branches(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y) {
            w = Constant<value = float[2, 2] {1, 2, 3, 4}>()
            h = MatMul(x, w)
            s = ReduceSum<keepdims = 0>(h)
            zero = Constant<value_float = 0.0>()
            c = Greater(s, zero)
            y = If (c) <
                then_branch = t () => (float[N, 2] a) {
                    k = Constant<value_floats = [5.0, 6.0]>()
                    a = Add(h, k)
                },
                else_branch = e () => (float[N, 2] b) { b = Neg(h) }>
        }"""
    )
    model = cleaned(path, (3, 2))
    assert "Constant" not in ops(model)
    assert {name for inner in model.graphs() for name in inner.initializers} == {"w", "zero", "k"}


def test_a_constant_that_is_an_output_stays_one(write: Write) -> None:
    path = write(
        """net (float[N] x) => (float[N] y, float[2] k) {
            y = Relu(x)
            k = Constant<value = float[2] {1, 2}>()
        }"""
    )
    assert [value.name for value in cleaned(path, (3,)).graph.outputs] == ["y", "k"]


def test_functions_are_inlined(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            [a] h = local.Dense(x, w)
            [b] y = local.Dense(h, w)
        }
        <domain: "local", opset_import: ["" : 18]> Dense (p, q) => (r) { m = MatMul(p, q)  r = Relu(m) }""",
        '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>',
    )
    model = cleaned(path, (3, 2))
    assert ops(model) == ["MatMul", "Relu", "MatMul", "Relu"]
    assert dict(model.opset_imports) == {"": 18}
    assert not model.functions


def test_an_inlined_name_does_not_clash_with_one_of_a_branch(write: Write) -> None:
    """The function's m becomes a value of the graph, where the branch has its own m: onnxruntime refuses that."""
    path = write(
        """net (float[N, 2] x, bool c) => (float[N, 2] y) {
            h = local.Twice(x)
            y = If (c) <then_branch = t () => (float[N, 2] m) { m = Neg(h) },
                        else_branch = e () => (float[N, 2] k) { k = Relu(h) }>
        }
        <domain: "local", opset_import: ["" : 18]> Twice (p) => (r) { m = Add(p, p)  r = Relu(m) }""",
        '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>',
    )
    model = graph.load(path)
    x = np.array([[1, -2]], np.float32)
    (y,) = run(graph.to_bytes(model), {"x": x, "c": np.array(True)})
    np.testing.assert_array_equal(y, [[-2, 0]])


def test_functions_of_another_opset_are_refused(write: Write) -> None:
    path = write(
        """net (float[N] x) => (float[N] y) { y = local.F(x) }
        <domain: "local", opset_import: ["" : 17]> F (p) => (r) { r = Relu(p) }""",
        '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>',
    )
    with pytest.raises(UnsupportedError, match="local functions cannot be inlined"):
        graph.load(path)


def test_weights_listed_as_inputs_leave_the_signature(write: Write) -> None:
    path = write(
        """net (float[N, 2] x, float[2, 2] w) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            y = MatMul(x, w)
        }""",
        '<ir_version: 3, opset_import: ["" : 9]>',
    )
    model = cleaned(path, (3, 2))
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert (model.ir_version, model.opset_imports[""]) == (4, 9)  # IR 3 asks for them in the list
    onnx.checker.check_model(graph.to_bytes(model))


def test_no_ops_go_and_the_names_of_outputs_stay(write: Write) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) {
            a = Identity(x)
            b = Cast<to = 1>(a)
            c = Relu(b)
            y = Identity(c)
            z = Identity(x)
        }"""
    )
    model = cleaned(path, (3, 2))
    assert sorted(ops(model)) == ["Identity", "Relu"]  # z is x itself, which must keep both names
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_unused_things_go_but_inputs_stay(write: Write) -> None:
    path = write(
        """net (float[N] x, float[N] idle) => (float[N] y) <float[1] spare = {1}> {
            y = Relu(x)
            dead = Add(x, spare)
        }"""
    )
    model = cleaned(path, (3,), (3,))
    assert ops(model) == ["Relu"]
    assert not model.graph.initializers
    assert [value.name for value in model.graph.inputs] == ["x", "idle"]


def test_notes_of_exporters_go_and_the_users_stay(write: Write, tmp_path: Path) -> None:
    path = write("net (float[N] x) => (float[N] y) <float[1] w = {2}> { y = Mul(x, w) }")
    proto = onnx.load(path)
    helper.set_model_props(
        proto,
        {"author": "somebody", "pkg.torch.export": "x", "source": "/home/somebody/net", "script": "train.py"},
    )
    proto.doc_string = proto.graph.doc_string = proto.graph.node[0].doc_string = (
        "made at /home/somebody/net.py:3"
    )
    for item in (proto.graph, proto.graph.node[0], proto.graph.input[0], proto.graph.initializer[0]):
        entry = item.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", 'File "/home/somebody/net.py", line 3'
    path.write_bytes(proto.SerializeToString())
    data = graph.to_bytes(graph.load(path))
    assert b"somebody/" not in data
    assert b"train.py" not in data
    assert {p.key: p.value for p in onnx.load_from_string(data).metadata_props} == {"author": "somebody"}


def test_sparse_initializers_become_dense(tmp_path: Path) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [5.0, 7.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 2])
    net = onnx.parser.parse_graph("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul(x, w) }")
    net.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    path = tmp_path / "sparse.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    model = cleaned(path, (3, 2))
    np.testing.assert_array_equal(numbers(model, "w"), [[0, 5], [7, 0]])


def test_names_are_given_and_the_users_kept(write: Write) -> None:
    path = write(
        """net (float[N] x) => (float[N] y) {
            a = Relu(x)
            [Relu] b = Relu(a)
            [mine] c = Neg(b)
            y = Neg(c)
        }"""
    )
    model = cleaned(path, (3,))
    assert [node.name for node in model.graph] == ["Relu_1", "Relu", "mine", "Neg"]
    assert [node.outputs[0].name for node in model.graph] == ["a", "b", "c", "y"]


def test_nodes_are_sorted_when_the_file_is_not(write: Write) -> None:
    model = cleaned(write("net (float[N] x) => (float[N] y) { y = Neg(h)  h = Relu(x) }"), (3,))
    assert ops(model) == ["Relu", "Neg"]
    onnx.checker.check_model(graph.to_bytes(model))


def test_branches_are_sorted_too(write: Write) -> None:
    path = write(
        """net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] b) { b = Neg(a)  a = Relu(x) },
                        else_branch = e () => (float[N] d) { d = Exp(x) }>
        }"""
    )
    model = graph.load(path)
    assert ops(model) == ["If", "Relu", "Neg", "Exp"]
    onnx.checker.check_model(graph.to_bytes(model))


def test_wrong_declared_shapes_mislead_nobody(write: Write) -> None:
    """The file says that h has rank 3 and y rank 1; what Shape gives must come from what runs."""
    path = write(
        """net (float[N, 2] x) => (float[N] y, int64[2] s) <float[7, 7, 7] h> {
            h = Relu(x)
            s = Shape(h)
            y = Neg(h)
        }"""
    )
    model = cleaned(path, (3, 2))
    assert [tensor.shape for tensor in graph.signature(model).outputs] == [("N",), (2,)]  # as declared


def test_opset_signature_and_dynamic_axes_are_kept(write: Write) -> None:
    path = write(
        "net (float[batch, time, 4] x) => (float[batch, time, 4] y) { y = Relu(x) }",
        '<ir_version: 8, opset_import: ["" : 15]>',
    )
    model = graph.load(path)
    assert (model.ir_version, model.opset_imports[""]) == (8, 15)
    before, after = (
        ort.InferenceSession(s, providers=["CPUExecutionProvider"]) for s in (path, graph.to_bytes(model))
    )
    for one, other in zip(
        (*before.get_inputs(), *before.get_outputs()),
        (*after.get_inputs(), *after.get_outputs()),
        strict=True,
    ):
        assert (one.name, one.shape, one.type) == (other.name, other.shape, other.type)


def test_cleaning_twice_changes_nothing(write: Write, tmp_path: Path) -> None:
    path = write(
        """net (float[N, 2] x) => (float[N, 2] y) <float[2] b = {1, 2}> {
            k = Constant<value = float[2, 2] {1, 2, 3, 4}>()
            t = Transpose(k)
            h = Gemm(x, t, b)
            y = Gemm(h, t, b)
        }"""
    )
    once = graph.load(path)
    graph.save(once, tmp_path / "again.onnx")
    assert graph.to_bytes(graph.load(tmp_path / "again.onnx")) == graph.to_bytes(once)


def test_tensors_do_not_depend_on_the_file(write: Write) -> None:
    path = write("net (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }")
    model = graph.load(path)
    path.write_bytes(b"something else")
    np.testing.assert_array_equal(numbers(model, "w"), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="read-only"):
        numbers(model, "w")[0] = 0  # a copy of the graph shares the numbers


def test_output_without_a_shape_is_given_the_one_that_runs(write: Write) -> None:
    path = write("net (float[N, 2] x) => (float[] y) { y = Relu(x) }")
    assert graph.signature(cleaned(path, (3, 2))).outputs[0].shape == ("N", 2)


def test_negative_and_unnamed_axes_are_dynamic(tmp_path: Path) -> None:
    net = onnx.parser.parse_graph("net (float[N, 2, 3] x) => (float[N, 2, 3] y) { y = Relu(x) }")
    for value in (*net.input, *net.output):
        first, second, third = value.type.tensor_type.shape.dim
        first.dim_value, second.dim_param = -1, "?"
        third.ClearField("dim_value")
    path = tmp_path / "axes.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    assert graph.signature(graph.load(path)).inputs[0].shape == (None, None, None)


def test_string_tensors_survive(tmp_path: Path) -> None:
    net = onnx.parser.parse_graph("net (int64[N] x) => (string[N] y) { y = Gather(names, x) }")
    net.initializer.append(numpy_helper.from_array(np.array(["a", "bé"], dtype=object), "names"))
    path = tmp_path / "strings.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    (y,) = run(graph.to_bytes(graph.load(path)), {"x": np.array([1, 0])})
    assert list(y) == ["bé", "a"]
