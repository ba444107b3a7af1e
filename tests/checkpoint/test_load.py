"""One way in: which kind a file is, what the recipe must say, the user's factory, and whole commands."""

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from mlcompress import checkpoint, files, graph, stages
from mlcompress.checkpoint import weights
from mlcompress.checkpoint.detect import Kind, kind
from mlcompress.context import Context
from mlcompress.errors import UserError
from mlcompress.measure import size
from mlcompress.recipe.load import load as load_recipe
from mlcompress.recipe.sections import ModelSection
from mlcompress.report.collect import collect
from mlcompress.report.recipe import ReportRecipe
from tests.checkpoint.nets import Cnn, seasoned
from tests.conftest import Program
from tests.graph.onnx_text import MLP

INPUTS = {"image": {"shape": ["batch", 1, 8, 8]}}
FACTORY = "tests.checkpoint.nets:build"


def section(**keys: object) -> ModelSection:
    return ModelSection.model_validate({"factory": FACTORY, "inputs": INPUTS, **keys})


def refused(path: Path, spec: ModelSection, *, no_code: bool = False) -> list[str]:
    with pytest.raises(UserError) as caught:
        checkpoint.load(path, spec, no_code=no_code)
    return list(caught.value.lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every kind of file, and other kinds beside them. No suffix says what a file is."""
    folder = tmp_path_factory.mktemp("kinds")
    net = seasoned(Cnn())
    torch.save(net.state_dict(), folder / "torch")
    torch.save(net.state_dict(), folder / "torch_legacy", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(net.state_dict(), folder / "safetensors")
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {MLP}'), folder / "onnx")
    example = torch.zeros(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        torch.jit.trace(net, example).save(folder / "torchscript")
    torch.export.save(torch.export.export(net, (example,)), folder / "net.pt2")
    (folder / "net.pt2").rename(folder / "program")
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "config.json").write_text("{}")
    (folder / "huggingface" / "model.safetensors").write_bytes((folder / "safetensors").read_bytes())
    (folder / "huggingface" / "README.md").write_text("not a part")
    return folder


@pytest.mark.parametrize("expected", list(Kind))
def test_the_kind_is_told_by_content(folder: Path, expected: Kind) -> None:
    assert kind(folder / expected) is expected


def test_what_cannot_be_read_is_left_to_the_onnx_reader(tmp_path: Path) -> None:
    assert kind(tmp_path) is kind(tmp_path / "none") is Kind.ONNX
    (tmp_path / "x").write_bytes(struct.pack("<Q", 2**40) + b"{}")  # the header is longer than the file
    assert kind(tmp_path / "x") is Kind.ONNX


def test_every_kind_of_weights_gives_the_same_graph(folder: Path) -> None:
    made = [
        graph.to_bytes(checkpoint.load(folder / name, section(outputs=["logits"])))
        for name in ("torch", "safetensors")
    ]
    assert made[0] == made[1]
    new, old = (weights.read(folder / one, one) for one in (Kind.TORCH, Kind.TORCH_LEGACY))
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())


def test_size_and_digest_of_files_and_folders(folder: Path) -> None:
    path = folder / "torch"
    found = size.on_disk(path)
    assert (found.bytes, found.sha256) == (path.stat().st_size, files.sha256(path))
    inside = folder / "huggingface"
    before = size.on_disk(inside)
    assert before.bytes == 2 + (inside / "model.safetensors").stat().st_size
    assert 0 < before.compressed_bytes < before.bytes
    assert before.sha256 == files.sha256(inside)
    (inside / "README.md").write_text("changed")
    assert files.sha256(inside) == before.sha256
    (inside / "config.json").write_text("[]")
    assert files.sha256(inside) != before.sha256
    (inside / "config.json").write_text("{}")


def test_what_the_recipe_must_say(folder: Path) -> None:
    path = folder / "torch"
    (line,) = refused(path, ModelSection())
    assert line == (
        f"{path}: holds weights without a graph; say in the recipe how to build the module: "
        "model: {factory: my_nets:build, inputs: {image: {shape: [batch, 3, 224, 224]}}}"
    )
    (line,) = refused(path, ModelSection(factory=FACTORY))
    assert line.startswith(f"{path}: model.inputs: does not say what the model takes; add `model: {{inputs: ")
    lines = refused(path, section(inputs={"image": {}}, factory="nowhere:build"), no_code=True)
    assert [line.split(": ")[0] for line in lines] == ["model.factory", str(path)]


def test_no_code_is_refused_before_anything_is_imported(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marks.py").write_text("open('mark', 'w').close()")
    (line,) = refused(folder / "torch", section(factory="marks:build"), no_code=True)
    assert line == "model.factory: 'marks:build' is code, and --no-code forbids running it; give an ONNX file"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("nets", "model.factory: 'nets' is not of the form pkg.module:function"),
        ("no_such_module_at_all:build", "model.factory: cannot import no_such_module_at_all: ModuleNotFoundError"),
        ("tests.checkpoint.nets:none", "model.factory: tests.checkpoint.nets has no function 'none'"),
        ("tests.checkpoint.nets:fails", "model.factory: tests.checkpoint.nets:fails raised ValueError: several lines"),
        ("tests.checkpoint.nets:leaves", "model.factory: tests.checkpoint.nets:leaves raised SystemExit: 0"),
        ("tests.checkpoint.nets:no_module", "returned int; return a torch.nn.Module"),
        ("tests.checkpoint.nets:lazy", "tests.checkpoint.nets:lazy: has lazy layers"),
        ("tests.checkpoint.nets:tied", "does not fit what tests.checkpoint.nets:tied builds: 2 of 2 tensors missing"),
    ],
)  # fmt: skip
def test_a_factory_that_makes_no_module(folder: Path, factory: str, said: str) -> None:
    (line,) = refused(folder / "torch", section(factory=factory))
    assert said in line


def test_arguments_of_the_factory(folder: Path) -> None:
    (line,) = refused(folder / "torch", section(kwargs={"width": 8, "classes": 3}))
    assert "12 of another shape or type" in line
    (line,) = refused(folder / "torch", section(kwargs={"depth": 8}))
    assert line.startswith(f"model.factory: {FACTORY} raised TypeError: ")


RECIPE = f"""\
model: {{factory: "{FACTORY}", inputs: {{image: {{shape: [batch, 1, 8, 8]}}}}, outputs: [logits]}}
measure: {{repeats: 1}}
"""


def test_a_checkpoint_is_pruned_and_reported(
    folder: Path, tmp_path: Path, program: Program, monkeypatch
) -> None:
    """As a shell does it, and again in this process: the same bytes."""
    (tmp_path / "net.pt").write_bytes((folder / "torch").read_bytes())
    (tmp_path / "base.pt").write_bytes((folder / "safetensors").read_bytes())
    gate = "gate: {baseline: base.pt, max_size_ratio: 0.9}\n"
    (tmp_path / "prune.yaml").write_text(RECIPE + "prune: {ratio: 0.5}\n" + gate)
    (tmp_path / "report.yaml").write_text(RECIPE)

    done = program("prune", "net.pt", "-r", "prune.yaml", "-o", "small.onnx", "--json")

    assert done.returncode == 0, done.stderr
    assert f'"sha256": "{files.sha256(tmp_path / "net.pt")}"' in done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("waiting for other")]
    assert [line.split(": ")[0] for line in said] == ["small.onnx"]  # nothing of torch's
    assert json.loads(done.stdout)["gate"]["checked"][0]["verdict"] == "pass"
    small = graph.load(tmp_path / "small.onnx")
    assert graph.signature(small).outputs[0].name == "logits"
    weight = small.graph.initializers["conv1.weight"].const_value.numpy()
    assert weight.shape == (8, 1, 3, 3)
    whole = seasoned(Cnn()).conv1.weight.detach().numpy()
    assert all(
        any(np.array_equal(one, other) for other in whole) for one in weight
    )  # the user's own channels

    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("prune.yaml", stages.find("prune").schema, [])
    model = checkpoint.load(Path("net.pt"), recipe.model)
    again, _ = stages.find("prune").run(model, recipe, Context(0))
    assert graph.to_bytes(again) == Path("small.onnx").read_bytes()

    report = collect([Path("net.pt"), Path("small.onnx")], load_recipe("report.yaml", ReportRecipe, []))
    assert [row.parent for row in report.rows] == [None, 0]
    assert report.rows[0].bytes == Path("net.pt").stat().st_size
    assert all(row.timings for row in report.rows)
