"""Torch modules to graphs. Oracle: the module itself, run by torch."""

import contextlib
import logging
import warnings
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from mlcompress import graph
from mlcompress.checkpoint.export import Input, compare, inputs_of, to_graph
from mlcompress.checkpoint.forward import examples, sized
from mlcompress.errors import ModelError, RecipeError
from mlcompress.graph.session import session
from mlcompress.recipe.sections import ModelSection
from tests.checkpoint.nets import Cnn, Two, seasoned
from tests.conftest import ROOT

IMAGE = Input("image", ("batch", 1, 8, 8), torch.float32)
VECTOR = Input("x", ("batch", 6), torch.float32)
WORDS = [Input("ids", ("batch", "length"), torch.int64), Input("mask", ("batch", "length"), torch.int64)]


def run(model: ir.Model, *tensors: torch.Tensor) -> list[np.ndarray]:
    names = [value.name for value in model.graph.inputs]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return session(graph.to_bytes(model)).run(None, feed)


def refused(module: nn.Module, *inputs: Input, outputs: tuple[str, ...] = ()) -> str:
    with pytest.raises(ModelError) as caught:
        to_graph(module, inputs, outputs, "net.pt")
    (line,) = caught.value.lines
    assert line.startswith("net.pt: ")
    return line


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    return seasoned(Cnn())


@pytest.fixture(scope="module")
def exported(cnn: nn.Module) -> ir.Model:
    return to_graph(cnn.train(), [IMAGE], ["logits"], "net.pt")


def test_names_and_batch_normalisation_of_the_module_survive(exported: ir.Model, cnn: nn.Module) -> None:
    stored = {name: tensor for name, tensor in cnn.state_dict().items() if tensor.ndim}
    for name, tensor in stored.items():
        np.testing.assert_array_equal(exported.graph.initializers[name].const_value.numpy(), tensor.numpy())
    kinds = [node.op_type for node in exported.graph]
    assert kinds.count("BatchNormalization") == 2
    assert not {"Dropout", "Identity", "Constant", "Expand", "CastLike"} & set(kinds)
    assert graph.parameters(exported) == sum(one.numel() for one in cnn.parameters())


def test_a_linear_layer_on_sequences_keeps_the_name_of_its_weight() -> None:
    """It is exported as a MatMul of the transposed weight, a constant of another name."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model = to_graph(module, [Input("x", ("batch", 5, 4), torch.float32)], [], "net")
    assert set(module.state_dict()) <= set(model.graph.initializers)


def test_nothing_of_the_exporting_machine_is_left(exported: ir.Model) -> None:
    data = graph.to_bytes(exported)
    assert not any(
        note in data for note in (b"site-packages", b"stack_trace", b"pkg.torch", str(ROOT).encode())
    )


def test_the_module_is_left_as_it_was(exported: ir.Model, cnn: nn.Module) -> None:
    """It came in train mode: tracing it so would have moved the running statistics."""
    before = seasoned(Cnn()).state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in cnn.state_dict().items())
    assert "forward" not in vars(cnn)


def test_it_computes_what_the_module_does_at_any_batch(exported: ir.Model, cnn: nn.Module) -> None:
    assert graph.signature(exported).outputs == (graph.Tensor("logits", np.dtype("float32"), ("batch", 4)),)
    for batch in (1, 5):
        image = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = cnn(image).numpy()
        np.testing.assert_allclose(run(exported, image)[0], expected, rtol=1e-5, atol=1e-5)  # float32 sums


def test_nested_outputs_are_flattened_and_equal_inputs_stay_apart() -> None:
    net = seasoned(Two())
    model = to_graph(net, WORDS[::-1], [], "net.pt")  # names of forward's parameters: the order is free
    assert [value.name for value in model.graph.outputs] == ["output", "output_1", "output_2"]
    assert [value.name for value in model.graph.inputs] == ["mask", "ids"]
    ids, mask = torch.tensor([[1, 2, 5], [0, 3, 4]]), torch.tensor([[1, 0, 1], [1, 1, 1]])
    pooled, score, same = run(model, mask, ids)
    with torch.no_grad():
        expected = net(ids, mask)
    np.testing.assert_allclose(pooled, expected["pooled"].numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(score, expected["rest"][0].score.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(same, mask.numpy())
    assert [value.shape for value in model.graph.outputs][2] == ["batch", "length"]


def test_examples_of_equal_inputs_differ() -> None:
    same = [Input(name, ("batch", 3), torch.int64) for name in "abcd"]
    made = examples(same, {"batch": 2})
    assert len({tuple(tensor.flatten().tolist()) for tensor in made}) == 4
    lengths = sized([Input("x", ("n", 3, "height", "width"), torch.float32)], 2, 64)
    assert lengths == {"n": 2, "height": 64, "width": 96}


def test_names_that_clash_with_inner_ones_are_the_users() -> None:
    """`linear` is what torch calls the value inside, and `fc.weight` is a tensor of the module."""
    net = seasoned(nn.Sequential())
    net.fc = nn.Linear(6, 2)
    model = to_graph(net, [Input("linear", ("batch", 6), torch.float32)], ["fc.weight"], "net.pt")
    assert [value.name for value in model.graph.inputs] == ["linear"]
    assert [value.name for value in model.graph.outputs] == ["fc.weight"]
    x = torch.randn(3, 6)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, x)[0], net(x).numpy(), rtol=1e-5, atol=1e-6)


def test_axes_that_torch_leaves_at_the_length_of_the_example_are_mended() -> None:
    """Torch declares a recurrent output at the example's length, although it is free."""
    inputs = [Input("x", ("batch", "time", 3), torch.float32)]
    made = to_graph(seasoned(nn.LSTM(3, 4, batch_first=True)), inputs, [], "net.pt")
    shapes = [tensor.shape for tensor in graph.signature(made).outputs]
    assert shapes == [("batch", "time", 4), (1, "batch", 4), (1, "batch", 4)]
    assert run(made, torch.randn(2, 5, 3))[0].shape == (2, 5, 4)


class Remembers(nn.Module):
    """Scales by the batch size, which is a number of Python's, and frozen, when it is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            return x * 2.0
        return x * float(x.shape[0])


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Pairs(nn.Module):
    """Takes two samples, no more and no fewer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 6) * 2


class Returns(nn.Module):
    def forward(self, x: torch.Tensor) -> object:
        return {"y": x, "step": 3}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Remembers(), "the graph is not the module at batch 3: output differs by"),
        (Random(), "the graph is not the module at batch 2: output differs by"),
        (Branches(), "torch cannot export this module: GuardOnDataDependentSymNode: Could not guard"),
        (Pairs(), "the axis 'batch' of x is free in the recipe, but the export works at 2 only"),
        (nn.Linear(5, 2), "the module fails on x [2, 6]: RuntimeError: mat1 and mat2 shapes"),
        (Returns(), "forward returns a int"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_no_graph_is_refused_in_one_line(
    module: nn.Module, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(module, VECTOR)
    assert capfd.readouterr() == ("", "")  # torch would print the graph that it had got so far


def test_fixed_shapes_are_compared_with_two_draws() -> None:
    fixed = Input("x", (2, 6), torch.float32)
    model = to_graph(Pairs(), [fixed], ["y"], "net.pt")
    assert graph.signature(model).inputs[0].shape == (2, 6)
    with pytest.raises(ModelError, match="is not the module at the shapes of the recipe: y differs by"):
        compare(model, Random(), [fixed], "net.pt")


def test_outputs_are_all_named_or_none() -> None:
    assert "model.outputs: names 2 tensors, the module returns 1" in refused(
        nn.Linear(6, 2), VECTOR, outputs=("a", "b")
    )


def _inputs(**section: object) -> Callable[[], object]:
    return lambda: inputs_of(ModelSection.model_validate(section), "net.pt")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (_inputs(), "model.inputs: does not say what the model takes; add `model: {inputs: "),
        (_inputs(inputs={"x": {}}), "model.inputs.x: has no shape"),
        (
            _inputs(inputs={"x": {"shape": ["batch size", 3]}}),
            "the axis 'batch size' is neither a length nor a word",
        ),
        (_inputs(inputs={"x": {"shape": [2]}}, outputs=["x"]), "model.outputs: x is given twice"),
        (_inputs(inputs={"": {"shape": [2]}}), "is empty or not printable"),
    ],
)
def test_inputs_that_do_not_describe_a_module(call: Callable[[], object], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        call()
    (line,) = caught.value.lines
    assert said in line


def test_inputs_keep_their_order_and_types() -> None:
    spec = ModelSection.model_validate(
        {"inputs": {"b": {"shape": [1]}, "a": {"shape": [], "dtype": "int64"}}}
    )
    assert inputs_of(spec, "x") == [Input("b", (1,), torch.float32), Input("a", (), torch.int64)]


def test_the_exporter_leaves_warnings_and_loggers_as_they_were(exported: ir.Model) -> None:
    assert logging.getLogger("torch.onnx").level == logging.NOTSET
    with contextlib.suppress(UserWarning), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            warnings.warn("still seen", UserWarning, stacklevel=1)
