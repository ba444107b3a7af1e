"""A real export that keeps BatchNormalization, from torch. Oracle: the torch module itself."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcompress import graph
from mlcompress.graph.session import session
from tests.graph.onnx_text import ops


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    made = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, groups=8, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.Dropout(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )
    for part in made:
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    return made.eval()


@pytest.fixture(scope="module")
def exported(net: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning
        )  # torch's own
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 12, 12),),
            path,
            dynamo=True,
            optimize=False,
            opset_version=18,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    return path


def test_only_the_net_is_left_under_the_names_of_the_module(exported: Path, net: torch.nn.Module) -> None:
    model = graph.load(exported)
    computing = [op for op in ops(model) if op in ("Conv", "BatchNormalization", "Relu", "Gemm")]
    assert computing == ["Conv", "BatchNormalization", "Relu", "Conv", "BatchNormalization", "Gemm"]
    assert not {"Expand", "CastLike", "Dropout", "Identity", "Constant"} & set(ops(model))
    assert [len(node.inputs) for node in model.graph if node.op_type == "Conv"] == [2, 2]
    stored = {name for name, tensor in net.state_dict().items() if tensor.ndim}
    assert stored <= set(model.graph.initializers)
    assert graph.parameters(model) == sum(p.numel() for p in net.parameters())


def test_it_computes_what_the_module_does_at_any_batch(exported: Path, net: torch.nn.Module) -> None:
    model = graph.load(exported)
    assert graph.signature(model).inputs[0].shape == ("batch", 1, 12, 12)
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 1, 12, 12)).astype(np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(x)).numpy()
        (found,) = session(graph.to_bytes(model)).run(None, {"image": x})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # float32 sums in another order


def test_nothing_of_the_exporting_machine_is_left(exported: Path) -> None:
    notes = (b"pkg.torch", b"stack_trace", b"site-packages")
    assert all(note in exported.read_bytes() for note in notes)  # negative control
    data = graph.to_bytes(graph.load(exported))
    assert not any(note in data for note in notes)
