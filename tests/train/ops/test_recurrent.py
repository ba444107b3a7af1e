"""LSTM, GRU and RNN against onnxruntime over their attributes; gradients against finite differences."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from mlcompress.train.executor import Executor, unsupported
from tests.train.ops.oracle import EPS, Array, compare, model_of, normal, reference

STEPS, SAMPLES, INPUTS, UNITS = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = ["forward", "reverse", "bidirectional"]
OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}
LENGTHS = (2, 5, 0)


def operands(
    op: str,
    direction: str = "forward",
    *,
    bias: bool = True,
    lengths: Sequence[int] | None = None,
    initial: bool = True,
    peepholes: bool = False,
) -> list[Array | None]:
    """X, W, R, B, sequence_lens, initial_h, and for LSTM initial_c and P. Small: nothing saturates."""
    ways, rows = 2 if direction == "bidirectional" else 1, GATES[op] * UNITS
    shapes = [(STEPS, SAMPLES, INPUTS), (ways, rows, INPUTS), (ways, rows, UNITS), (ways, 2 * rows)]
    shapes += [(ways, SAMPLES, UNITS), (ways, SAMPLES, UNITS), (ways, 3 * UNITS)]
    x, w, r, b, h, c, p = (0.4 * normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
    found = [x, w, r, b if bias else None, None if lengths is None else np.array(lengths, np.int32)]
    found += [h if initial else None] if op != "LSTM" else [h if initial else None, c if initial else None]
    return [*found, p] if peepholes else found


def check(
    op: str, direction: str = "forward", *, inputs: dict[str, Any] | None = None, **attributes: Any
) -> None:
    compare(
        op,
        *operands(op, direction, **(inputs or {})),
        opset=14,
        outputs=OUTPUTS[op],
        tolerance=EPS,
        direction=direction,
        hidden_size=UNITS,
        **attributes,
    )


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("lengths", [None, (STEPS,) * SAMPLES, LENGTHS])
def test_directions_lengths_and_optional_inputs(
    op: str, direction: str, lengths: tuple[int, ...] | None
) -> None:
    for bias, initial in itertools.product((True, False), repeat=2):
        check(op, direction, inputs={"bias": bias, "initial": initial, "lengths": lengths})


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("more", [{}, {"input_forget": 1}, {"clip": 0.3}])
def test_lstm_peepholes_coupled_gates_and_clipping(direction: str, more: dict[str, Any]) -> None:
    for peepholes in (True, False):
        check("LSTM", direction, inputs={"peepholes": peepholes, "lengths": LENGTHS}, **more)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gru_that_resets_after_the_product(direction: str) -> None:
    for lengths, bias in itertools.product((None, LENGTHS), (True, False)):
        check("GRU", direction, inputs={"lengths": lengths, "bias": bias}, linear_before_reset=1)
    check("GRU", direction, linear_before_reset=1, clip=0.2)


FUNCTIONS: list[tuple[str, list[float], list[float]]] = [
    ("Affine", [0.5], [0.1]),
    ("Elu", [], []),
    ("HardSigmoid", [], []),
    ("HardSigmoid", [0.3], [0.4]),
    ("LeakyRelu", [], []),
    ("LeakyRelu", [0.2], []),
    ("Relu", [], []),
    ("ScaledTanh", [0.7], [0.4]),
    ("Sigmoid", [], []),
    ("Softplus", [], []),
    ("Softsign", [], []),
    ("ThresholdedRelu", [0.3], []),
]


@pytest.mark.parametrize(("name", "alpha", "beta"), FUNCTIONS)
def test_activations(name: str, alpha: list[float], beta: list[float]) -> None:
    for op, direction in (("RNN", "forward"), ("RNN", "bidirectional"), ("GRU", "forward")):
        count = {"RNN": 1, "GRU": 2}[op] * (2 if direction == "bidirectional" else 1)
        parameters: dict[str, Any] = {
            key: values * count
            for key, values in (("activation_alpha", alpha), ("activation_beta", beta))
            if values
        }
        check(op, direction, activations=[name] * count, **parameters)
        check(op, direction, activations=[name] * count, clip=0.25, **parameters)


def test_parameters_of_activations_are_consumed_in_order() -> None:
    """By those functions only that have one; the directions may differ."""
    names = ["Sigmoid", "LeakyRelu", "HardSigmoid", "HardSigmoid", "Tanh", "Elu"]
    check("LSTM", "bidirectional", activations=names, activation_alpha=[0.3, 0.1, 0.4], activation_beta=[0.6])
    check("RNN", "bidirectional", activations=["Tanh", "Relu"])


def run(op: str, inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    model = model_of(op, inputs, attributes, opset=14, outputs=OUTPUTS[op])
    feed = {f"x{index}": torch.from_numpy(a.copy()) for index, a in enumerate(inputs) if a is not None}
    return [value.numpy() for value in Executor(ir.from_proto(model)).eval()(feed).values()]


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_samples_first(op: str, lengths: tuple[int, ...] | None) -> None:
    """onnxruntime has no layout 1: the oracle is its layout 0, transposed."""
    given = operands(op, "bidirectional", lengths=lengths)
    attributes = {"direction": "bidirectional", "hidden_size": UNITS}
    model = model_of(op, given, attributes, opset=14, outputs=OUTPUTS[op])
    wanted = reference(model, {f"x{index}": a for index, a in enumerate(given) if a is not None})
    turned = [a if a is None or index not in (0, 5, 6) else a.swapaxes(0, 1) for index, a in enumerate(given)]
    y, *last = run(op, turned, {**attributes, "layout": 1})
    np.testing.assert_allclose(y, wanted[0].transpose(2, 0, 1, 3), rtol=EPS, atol=EPS)
    for mine, theirs in zip(last, wanted[1:], strict=True):
        np.testing.assert_allclose(mine, theirs.swapaxes(0, 1), rtol=EPS, atol=EPS)


@pytest.mark.parametrize("op", GATES)
def test_negative_control_every_option_matters(op: str) -> None:
    """With these operands each option moves the result by far more than the tolerance above."""
    plain = run(op, operands(op), {"hidden_size": UNITS})[0]
    options: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"lengths": LENGTHS}, {}),
        ({"initial": False}, {}),
        ({"bias": False}, {}),
        ({}, {"direction": "reverse"}),
        ({}, {"clip": 0.1}),
    ]
    if op == "LSTM":
        options += [({"peepholes": True}, {}), ({}, {"input_forget": 1})]
    if op == "GRU":
        options += [({}, {"linear_before_reset": 1})]
    for inputs, attributes in options:
        changed = run(op, operands(op, **inputs), {"hidden_size": UNITS, **attributes})[0]
        assert np.abs(changed - plain).max() > 100 * EPS


def function(
    op: str, given: Sequence[Array | None], **attributes: Any
) -> tuple[Callable[..., Any], list[Tensor]]:
    """The node as a function of its floating-point inputs, in double precision."""
    double = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in given]
    attributes = {"hidden_size": UNITS, **attributes}
    model = model_of(op, double, attributes, opset=14, outputs=OUTPUTS[op])
    executor = Executor(ir.from_proto(model)).eval()
    arrays = {f"x{index}": torch.from_numpy(a.copy()) for index, a in enumerate(double) if a is not None}
    names = [name for name, tensor in arrays.items() if tensor.is_floating_point()]

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(executor({**arrays, **dict(zip(names, tensors, strict=True))}).values())

    return call, [arrays[name].requires_grad_() for name in names]


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LSTM", {}, {"direction": "bidirectional"}),
    ("LSTM", {"peepholes": True, "lengths": LENGTHS}, {"direction": "bidirectional"}),
    ("LSTM", {}, {"input_forget": 1, "direction": "reverse"}),
    ("GRU", {}, {"direction": "reverse", "linear_before_reset": 1}),
    ("GRU", {"lengths": LENGTHS}, {}),
    ("RNN", {}, {}),
    ("RNN", {"lengths": LENGTHS}, {"activations": ["Softsign"]}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES)
def test_gradients_are_those_of_finite_differences(
    op: str, inputs: dict[str, Any], attributes: dict[str, Any]
) -> None:
    """Of X, W, R, B, the first states and P; torch's own check, central differences in double precision.

    `fast_mode` compares one random projection of the Jacobian.
    """
    given = operands(op, attributes.get("direction", "forward"), **inputs)
    call, tensors = function(op, given, **attributes)
    assert torch.autograd.gradcheck(call, tensors, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize(("op", "more"), [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_loop_and_the_kernel_of_torch_agree(op: str, more: dict[str, Any], direction: str) -> None:
    """A bound that nothing reaches takes the loop; in double precision only the order of sums differs."""
    given = operands(op, direction)
    results = []
    for clip in ({}, {"clip": 1e6}):
        call, tensors = function(op, given, direction=direction, **more, **clip)
        values = call(*tensors)
        gradients = torch.autograd.grad(torch.stack([v.square().sum() for v in values]).sum(), tensors)
        results.append([*values, *gradients])
    for kernel, loop in zip(*results, strict=True):
        torch.testing.assert_close(kernel, loop, rtol=1e-12, atol=1e-12)


def test_no_steps_at_all() -> None:
    given = operands("LSTM")
    given[0] = np.zeros((0, SAMPLES, INPUTS), np.float32)
    y, h, c = run("LSTM", given, {"hidden_size": UNITS})
    assert y.shape == (0, 1, SAMPLES, UNITS)
    for mine, first in ((h, given[5]), (c, given[6])):
        np.testing.assert_array_equal(mine, np.asarray(first))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"clip": 0.0}, "attribute clip=0.0"),
    ({"direction": "sideways"}, "attribute direction='sideways'"),
    ({"activations": ["Sine"]}, "attribute activations with 'Sine'"),
    ({"activations": ["Tanh", "Tanh"]}, "attribute activations=['Tanh', 'Tanh'] (1 are needed)"),
    ({"activations": ["Affine"]}, "attribute activation_alpha without a value for Affine"),
    # the default of ONNX and that of onnxruntime differ
    ({"activations": ["ThresholdedRelu"]}, "attribute activation_alpha without a value for ThresholdedRelu"),
    ({"activation_beta": [0.5]}, "attribute activation_beta with more values than Tanh take"),
    ({"output_sequence": 1}, "attribute output_sequence=1"),
]


@pytest.mark.parametrize(("attributes", "expected"), REFUSED)
def test_what_is_refused(attributes: dict[str, Any], expected: str) -> None:
    names = ["x", "w", "r"]
    node = onnx.helper.make_node("RNN", names, ["y"], "node", **attributes)
    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 1, 1]) for name in names]
    graph = onnx.helper.make_graph([node], "one", values, [onnx.helper.make_empty_tensor_value_info("y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    assert unsupported(ir.from_proto(model)) == [f"op RNN (nodes node): {expected} has no trainable form"]


CHAIN = """<ir_version: 10, opset_import: ["" : 18]> net (float[t, n, 4] x) => (float[t, 1, n, 2] y)
<int64[1] zero = {0}, int64[1] two = {2}, int64[1] eight = {8}, int64[1] one = {1}, int64[1] end = {99}>
{ gate = Slice (w, zero, two, zero)  rest = Slice (w, two, eight, zero)
  joined = Concat <axis = 0> (rest, gate)  stacked = Unsqueeze (joined, zero)
  square = Transpose <perm = [1, 0]> (r)  turned = Unsqueeze (square, zero)
  both = Concat <axis = 0> (wb, rb)  bias = Unsqueeze (both, zero)
  longer = Concat <axis = 0> (filler, x)
  y0 = LSTM <hidden_size = 2> (longer, stacked, turned, bias)  y = Slice (y0, one, end, zero) }"""


def test_weights_that_are_cut_joined_and_turned_are_trained() -> None:
    """Also a bias of zeros, as a part of a weight; a filler of zeros that is joined to data is none."""
    proto = onnx.parser.parse_model(CHAIN)
    arrays = {
        "w": 0.4 * normal(8, 4),
        "r": 0.4 * normal(2, 8),
        "wb": normal(8),
        "rb": np.zeros(8, np.float32),
        "filler": np.zeros((1, 3, 4), np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    model = ir.from_proto(proto)
    executor = Executor(model)
    assert sorted(executor.trainable) == ["r", "rb", "w", "wb"]
    x = normal(5, 3, 4)
    optimizer = torch.optim.SGD(executor.parameters(), lr=0.1)
    executor({"x": torch.from_numpy(x)})["y"].square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in executor.trainable.values())
    optimizer.step()
    executor.write_back()
    (wanted,) = reference(ir.to_proto(model), {"x": x})
    mine = executor({"x": torch.from_numpy(x)})["y"].detach().numpy()
    np.testing.assert_allclose(mine, wanted, rtol=EPS, atol=EPS)
