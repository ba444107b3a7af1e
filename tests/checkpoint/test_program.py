"""Programs of torch.export to graphs. Oracle: the torch module that was exported."""

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from mlcompress import graph
from mlcompress.checkpoint import load
from mlcompress.errors import RecipeError
from mlcompress.recipe.sections import ModelSection
from tests.checkpoint.archives import Change, added, edited, refused
from tests.checkpoint.nets import Cnn, Tied, Two, seasoned
from tests.checkpoint.test_torchscript import run, spec

IMAGE = "model: {inputs: {image: {shape: [batch, 1, 8, 8]}}}"
BATCH = {0: torch.export.Dim("batch")}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Regions(nn.Module):
    """Arithmetic on lengths, a region without gradients, a constant, a buffer that is not saved, in-place steps."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.scale = torch.tensor([2.0])
        self.register_buffer("shift", torch.arange(6.0), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            y = x * self.scale + self.shift
        n = x.shape[0]
        y = self.fc(y).view(n * 2, 3).reshape(n, 2, -1)
        left, right = y.chunk(2, 1)
        return {"sum": torch.zeros_like(left).add_(left + right), "top": y.topk(2, -1)[0]}


class Chooses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return x + self.seen


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return x * times


def exported(module: nn.Module, *examples: Any, dynamic: Any = None, core: bool = False) -> bytes:
    program = torch.export.export(module, examples, dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program.run_decompositions() if core else program, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    return seasoned(Cnn())


@pytest.fixture(scope="module")
def archive(cnn: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "cnn.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(exported(cnn, torch.rand(2, 1, 8, 8), dynamic=(BATCH,)))
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of one layer, to be tampered with."""
    path = tmp_path_factory.mktemp("program") / "linear.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(exported(seasoned(nn.Linear(3, 2)), torch.rand(2, 3), dynamic=(BATCH,)))
    return path


@pytest.fixture(scope="module")
def model(archive: Path) -> ir.Model:
    return load(archive)


def test_a_program_needs_no_recipe_and_keeps_names_and_batch_normalisation(
    model: ir.Model, cnn: nn.Module
) -> None:
    assert [node.op_type for node in model.graph].count("BatchNormalization") == 2
    for name, tensor in cnn.state_dict().items():
        if tensor.ndim:
            np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), tensor.numpy())
    (image,) = graph.signature(model).inputs
    assert (image.name, image.shape) == ("image", ("batch", 1, 8, 8))
    assert [value.name for value in model.graph.outputs] == ["output"]


@pytest.mark.parametrize("batch", [1, 7])
def test_a_program_computes_the_same(model: ir.Model, cnn: nn.Module, batch: int) -> None:
    image = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        np.testing.assert_allclose(run(model, image)[0], cnn(image).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("core", [False, True], ids=["as exported", "decomposed"])
def test_regions_lengths_and_several_outputs(core: bool, tmp_path: Path) -> None:
    module = seasoned(Regions())
    (tmp_path / "r.pt2").write_bytes(exported(module, torch.rand(2, 6), dynamic=(BATCH,), core=core))
    section = spec("model: {inputs: {v: {shape: [n, 6]}}, outputs: [total, best]}")
    made = load(tmp_path / "r.pt2", section)
    (v,) = graph.signature(made).inputs
    assert (v.name, v.shape) == ("v", ("n", 6))
    assert [value.name for value in made.graph.outputs] == ["total", "best"]
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for found, wanted in zip(run(made, x), module(x).values(), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_two_inputs_are_told_apart_and_an_axis_has_one_name(tmp_path: Path) -> None:
    module = seasoned(Two())
    ids, mask = torch.randint(0, 6, (2, 5)), torch.ones(2, 5, dtype=torch.int64)
    axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("t")}
    whole = {"ids": axes, "mask": axes}

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.inner(ids, mask)["pooled"]

    (tmp_path / "two.pt2").write_bytes(exported(Flat().eval(), ids, mask, dynamic=whole))
    made = load(tmp_path / "two.pt2")
    assert [value.shape for value in graph.signature(made).inputs] == [("batch", "axis_1")] * 2
    generator = torch.Generator().manual_seed(0)
    ids, mask = (torch.randint(0, 2, (3, 4), generator=generator) for _ in range(2))
    with torch.no_grad():
        np.testing.assert_allclose(
            run(made, ids, mask)[0], module(ids, mask)["pooled"].numpy(), rtol=1e-5, atol=1e-6
        )


def test_tied_weights_are_one_initializer(tmp_path: Path) -> None:
    (tmp_path / "t.pt2").write_bytes(exported(seasoned(Tied()), torch.zeros(2, 3, dtype=torch.int64)))
    sizes = [value.const_value.size for value in load(tmp_path / "t.pt2").graph.initializers.values()]
    assert sizes.count(24) == 1


def test_a_fixed_batch_stays_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = seasoned(nn.Linear(3, 2))
    (tmp_path / "f.pt2").write_bytes(exported(module, torch.rand(4, 3)))
    made = load(tmp_path / "f.pt2", spec("model: {inputs: {x: {shape: [batch, 3]}}}"))
    assert graph.signature(made).inputs[0].shape == (4, 3)
    assert "the axis 'batch' stays 4" in capsys.readouterr().err


def test_a_recipe_that_does_not_fit(archive: Path) -> None:
    cases = {
        "{x: {}, y: {}}": "names 2 inputs, the program takes 1 (image)",
        "{x: {dtype: int64}}": "is int64, the program takes float32",
        "{x: {shape: [n, 1, 8]}}": "has 3 axes, the program takes 4",
        "{x: {shape: [n, 1, 8, 9]}}": "has the length 9 where the program takes 8",
    }
    for inputs, said in cases.items():
        with pytest.raises(RecipeError, match=r".") as caught:
            load(archive, ModelSection.model_validate(spec(f"model: {{inputs: {inputs}}}")))
        assert said in caught.value.lines[0]


# ---------------------------------------------------------------- refused

MODULES: dict[str, tuple[Callable[[], bytes], str]] = {
    "training mode": (
        lambda: exported(Cnn().train(), torch.rand(2, 1, 8, 8)),
        "was saved in training mode (batch_norm uses the statistics of the batch); call .eval()",
    ),
    "training mode, decomposed": (
        lambda: exported(Cnn().train(), torch.rand(2, 1, 8, 8), core=True),
        "call .eval() on the module, and export it again",
    ),
    "dropout in training mode": (
        lambda: exported(nn.Dropout().train(), torch.rand(2, 3)),
        "was saved in training mode (dropout drops out); call .eval()",
    ),
    "branch": (lambda: exported(Chooses(), torch.rand(2, 3)), "has a cond region"),
    "buffer written": (
        lambda: exported(Counts(), torch.rand(2, 3)),
        "has state (seen is written in forward)",
    ),
    "number for an input": (
        lambda: exported(Scaled(), torch.rand(2, 3), 3, dynamic=(None, torch.export.Dim.DYNAMIC)),
        "takes an input that is no tensor",
    ),
    "bfloat16": (
        lambda: exported(nn.Linear(3, 2).bfloat16(), torch.rand(2, 3).bfloat16()),
        "convert it to float32",
    ),
    "not finite": (lambda: exported(_broken(), torch.rand(2, 3)), "NaN or infinite numbers"),
}


def _broken() -> nn.Module:
    layer = nn.Linear(3, 2)
    layer.bias.data[0] = float("inf")
    return layer


@pytest.mark.parametrize("case", MODULES)
def test_refused_module(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = MODULES[case]
    Path("net.pt2").write_bytes(make())
    refused(Path("net.pt2"), "", said, capsys)


def described(change: Callable[[Any], object]) -> Change:
    """A change of a JSON entry."""

    def act(data: bytes) -> bytes:
        made = json.loads(data)
        change(made)
        return json.dumps(made).encode()

    return act


def first_node(description: Any) -> Any:
    return description["graph_module"]["graph"]["nodes"][0]


def first_weight(config: Any) -> Any:
    return config["config"]["weight"]


class Marks:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("mark",)


EVIL = "__import__('os').system('touch mark')"


def target(name: str) -> Change:
    return described(lambda made: first_node(made).update(target=name))


def symbol(text: str) -> Change:
    return described(
        lambda made: (
            json.loads(json.dumps(made)) and _sizes(made)[0].update(as_expr={"expr_str": text, "hint": None})
        )
    )


def _sizes(description: Any) -> Any:
    return description["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]


CHANGES: dict[str, tuple[dict[str, Change], str]] = {
    "a system call as an operator": ({"model_json": target("torch.os.system")}, "is not torch's own"),
    "a loader as an operator": ({"model_json": target("torch.load")}, "is not torch's own"),
    "a file as a tensor": (
        {"model_json": target("torch.ops.aten.from_file.default")},
        "does more than compute",
    ),
    "another library's operator": (
        {"model_json": target("torch.ops.mine.run.default")},
        "is not torch's own",
    ),
    "an operator that is not there": (
        {"model_json": target("torch.ops.aten.mine.default")},
        "has no operator aten::mine",
    ),
    "an expression for a length": ({"model_json": symbol(EVIL)}, "is computed from another"),
    "code for a name": (
        {
            "model_json": described(
                lambda made: first_node(made)["outputs"][0]["as_tensor"].update(name=f"x); {EVIL} #")
            )
        },
        "before it is computed",
    ),
    "code for a guard": (
        {"model_json": described(lambda made: made.update(schema_version={"major": 7}, guards_code=[EVIL]))},
        "is a program of schema 7",
    ),
    "no nodes": (
        {"model_json": described(lambda made: made["graph_module"]["graph"].pop("nodes"))},
        "is damaged",
    ),
    "no JSON": ({"model_json": lambda data: data[:-9]}, "is no JSON"),
    "deep JSON": ({"model_json": lambda _: b"[" * 200_000}, "is no JSON"),
    "a pickled weight": (
        {"weights_config_json": described(lambda made: first_weight(made).update(use_pickle=True))},
        "stores weight as a pickle",
    ),
    "a weight outside": (
        {
            "weights_config_json": described(
                lambda made: first_weight(made).update(path_name="../../../etc/passwd")
            )
        },
        "holds no data/weights/../../../etc/passwd",
    ),
    "a weight larger than its bytes": (
        {
            "weights_config_json": described(
                lambda made: first_weight(made)["tensor_meta"]["sizes"][0].update(as_int=1 << 40)
            )
        },
        "more than its 24 bytes hold",
    ),
    "a negative stride": (
        {
            "weights_config_json": described(
                lambda made: first_weight(made)["tensor_meta"]["strides"][0].update(as_int=-3)
            )
        },
        "has the length",
    ),
    "a missing weight": (
        {"weights_config_json": described(lambda made: made["config"].pop("bias"))},
        "lacks the weights bias",
    ),
    "a wrong shape": (
        {
            "weights_config_json": described(
                lambda made: first_weight(made)["tensor_meta"].update(
                    sizes=[{"as_int": 3}, {"as_int": 2}], strides=[{"as_int": 2}, {"as_int": 1}]
                )
            )
        },
        "the module fails on input [2, 3]",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_refused_change(
    case: str,
    linear: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, said = CHANGES[case]
    edited(linear, Path("net.pt2"), **changes)
    refused(Path("net.pt2"), "", said, capsys)


def truncated(linear: Path) -> None:
    Path("net.pt2").write_bytes(linear.read_bytes()[:-500])


def compiled(linear: Path) -> None:
    added(linear, Path("net.pt2"), "data/aotinductor/model/run.so", b"\x7fELF")


def two_programs(linear: Path) -> None:
    added(linear, Path("net.pt2"), "models/other.json", b"{}")


def bomb(linear: Path) -> None:
    added(linear, Path("net.pt2"), "models/other.json", bytes(80 << 20), zipfile.ZIP_DEFLATED)


def older(linear: Path) -> None:
    with zipfile.ZipFile("net.pt2", "w") as file:
        file.writestr("serialized_exported_program.json", "{}")
        file.writestr("version", "8.1")


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "truncated"),
    "compiled": (compiled, "is compiled to machine code"),
    "two programs": (two_programs, "holds 2 programs"),
    "bomb": (bomb, "would unpack to"),
    "older": (older, "of torch 2.7 or older"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_refused_archive(
    case: str,
    linear: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = ARCHIVES[case]
    make(linear)
    refused(Path("net.pt2"), "", said, capsys)


def test_pickled_sample_inputs_are_never_opened(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.export.load falls back to plain unpickling for them: the negative control."""
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    torch.save((Marks(),), file)
    edited(linear, Path("net.pt2"), model_pt=lambda _: file.getvalue())
    made = load(Path("net.pt2"))
    assert not os.path.exists("mark")
    assert list(made.graph.initializers)
    with pytest.raises(Exception, match=r"."):
        torch.export.load("net.pt2")
    assert os.path.exists("mark")
