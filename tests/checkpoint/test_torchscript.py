"""TorchScript archives to graphs. Oracle: the torch module that was traced or scripted."""

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import yaml
from torch import nn

from mlcompress import graph
from mlcompress.checkpoint import load
from mlcompress.errors import RecipeError
from mlcompress.graph.session import session
from mlcompress.recipe.sections import ModelSection
from tests import task
from tests.checkpoint.archives import added, edited, refused, swap
from tests.checkpoint.nets import Cnn, Tied, seasoned
from tests.conftest import Program

IMAGE = "model: {inputs: {image: {shape: [batch, 1, 8, 8]}}}"
VECTOR = "model: {inputs: {x: {shape: [batch, 3]}}}"
_DEPRECATED = "ignore:`torch.jit.*` is deprecated:DeprecationWarning"
pytestmark = [
    pytest.mark.filterwarnings(_DEPRECATED),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


class Attention(nn.Module):
    """ids, mask [batch, length] -> scores [batch, 3], mean [batch, 8]; lengths are computed with while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(6, 8), nn.Embedding(40, 8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))[None]
        n, t, d = x.shape
        q, k = (f(x).view(n, t, 2, d // 2).transpose(1, 2) for f in (self.query, self.key))
        weights = torch.softmax(
            q @ k.transpose(-1, -2) / (d // 2) ** 0.5 - 9.0 * (mask[:, None, None] == 0), -1
        )
        x = self.norm(x + (weights @ q).transpose(1, 2).reshape(n, t, d))
        return self.head(x[:, 0]), x.mean(1)


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x + 1
        return x - 1


class Loop(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() > 9):
            x = x / 2
        return x


class Asks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 2:
            return x + 1
        return x - 1


class Rounds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k in range(3):
            x = torch.tanh(self.fc(x)) * float(k + 1)
        return x


class Remembers(nn.Module):
    last: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.sum()[None]
        return x + self.last


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


class Frozen(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 3) * torch.ones(2, 1)


class WritesWhenLoaded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.k

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return (self.k, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        torch.save(torch.ones(1), "mark")
        self.k = state[0]
        self.training = state[1]


def traced(module: nn.Module, *examples: torch.Tensor) -> torch.jit.ScriptModule:
    return torch.jit.trace(module, examples, check_trace=False)


def spec(recipe: str) -> ModelSection:
    return ModelSection.model_validate(yaml.safe_load(recipe)["model"])


def run(model: ir.Model, *tensors: torch.Tensor) -> list[np.ndarray]:
    names = [value.name for value in model.graph.inputs]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return session(graph.to_bytes(model)).run(None, feed)


@pytest.fixture(scope="module")
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    return seasoned(Cnn())


@pytest.fixture(scope="module")
def archive(cnn: nn.Module, tmp_path_factory: pytest.TempPathFactory, _silent: None) -> Path:
    path = tmp_path_factory.mktemp("traced") / "cnn.pt"
    traced(cnn, torch.rand(2, 1, 8, 8)).save(str(path))
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory, _silent: None) -> Path:
    """A traced layer, to be tampered with."""
    path = tmp_path_factory.mktemp("traced") / "linear.pt"
    traced(seasoned(nn.Linear(3, 2)), torch.rand(2, 3)).save(str(path))
    return path


@pytest.fixture(scope="module")
def model(archive: Path) -> ir.Model:
    return load(archive, spec(IMAGE.replace("}}}", "}}, outputs: [logits]}")))


def test_a_traced_module_keeps_names_and_batch_normalisation(model: ir.Model, cnn: nn.Module) -> None:
    assert [node.op_type for node in model.graph].count("BatchNormalization") == 2
    for name, tensor in cnn.state_dict().items():
        if tensor.ndim:
            np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), tensor.numpy())
    assert [value.name for value in model.graph.outputs] == ["logits"]
    assert list(graph.signature(model).inputs[0].shape) == ["batch", 1, 8, 8]


@pytest.mark.parametrize("batch", [1, 7])
def test_a_traced_module_computes_the_same(model: ir.Model, cnn: nn.Module, batch: int) -> None:
    image = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
    (found,) = run(model, image)
    with torch.no_grad():
        np.testing.assert_allclose(found, cnn(image).numpy(), rtol=1e-5, atol=1e-6)


def test_a_scripted_module_whose_branches_ask_for_flags_is_the_same_graph(
    model: ir.Model, cnn: nn.Module, tmp_path: Path
) -> None:
    torch.jit.script(cnn).save(str(tmp_path / "scripted.pt"))
    scripted = load(tmp_path / "scripted.pt", spec(IMAGE))
    assert [node.op_type for node in scripted.graph] == [node.op_type for node in model.graph]
    dotted = {name for name in model.graph.initializers if "." in name}
    assert len(dotted) == 12
    assert dotted <= set(scripted.graph.initializers)


def test_a_frozen_module_has_its_weights_as_constants(cnn: nn.Module, tmp_path: Path) -> None:
    frozen = torch.jit.freeze(traced(cnn, torch.rand(2, 1, 8, 8)), optimize_numerics=False)
    frozen.save(str(tmp_path / "frozen.pt"))
    made = load(tmp_path / "frozen.pt", spec(IMAGE))
    assert [node.op_type for node in made.graph].count("BatchNormalization") == 2
    assert graph.parameters(made) == sum(one.numel() for one in cnn.parameters())
    image = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        np.testing.assert_allclose(run(made, image)[0], cnn(image).numpy(), rtol=1e-5, atol=1e-6)


def test_lengths_stay_free_and_transposed_weights_keep_their_names(tmp_path: Path) -> None:
    module = seasoned(Attention())
    traced(module, torch.randint(0, 6, (2, 5)), torch.ones(2, 5, dtype=torch.int64)).save(
        str(tmp_path / "a.pt")
    )
    shape = "{shape: [batch, length], dtype: int64}"
    made = load(tmp_path / "a.pt", spec(f"model: {{inputs: {{ids: {shape}, mask: {shape}}}}}"))
    assert {"query.weight", "key.weight", "head.weight", "words.weight"} <= set(made.graph.initializers)
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(0, 6, (3, 11), generator=generator), torch.ones(3, 11, dtype=torch.int64)
    mask[:, 7:] = 0
    with torch.no_grad():
        for found, wanted in zip(run(made, ids, mask), module(ids, mask), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_loop_of_known_length_is_unrolled(tmp_path: Path) -> None:
    module = seasoned(Rounds())
    torch.jit.script(module).save(str(tmp_path / "rounds.pt"))
    made = load(tmp_path / "rounds.pt", spec(VECTOR))
    assert [node.op_type for node in made.graph].count("Tanh") == 3
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(run(made, x)[0], module(x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_class_of_a_main_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rounds, "__module__", "__main__")
    traced(seasoned(Rounds()), torch.rand(2, 3)).save(str(tmp_path / "rounds.pt"))
    with zipfile.ZipFile(tmp_path / "rounds.pt") as file:
        assert b"c__torch__\nRounds\n" in file.read("rounds/data.pkl")
    load(tmp_path / "rounds.pt", spec(VECTOR))


def test_tied_weights_are_one_initializer(tmp_path: Path) -> None:
    traced(seasoned(Tied()), torch.zeros(2, 3, dtype=torch.int64)).save(str(tmp_path / "tied.pt"))
    made = load(tmp_path / "tied.pt", spec("model: {inputs: {ids: {shape: [batch, length], dtype: int64}}}"))
    sizes = [value.const_value.size for value in made.graph.initializers.values()]
    assert sizes.count(24) == 1


def test_the_missing_section_can_be_pasted(archive: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(archive, ModelSection())
    (line,) = caught.value.lines
    pasted = line.partition("add `")[2].partition("`")[0].replace("...", "1, 8, 8")
    assert spec(pasted) == spec(IMAGE.replace("8]", "8], dtype: float32"))


def test_quantize_from_the_command_line(tmp_path: Path, program: Program) -> None:
    """A net that classifies: Linear on pixels, solved by least squares."""
    pictures, labels = task.samples(400, seed=2)
    features = np.concatenate([pictures.reshape(400, -1), np.ones((400, 1), np.float32)], 1)
    fitted = np.linalg.lstsq(features, np.eye(task.CLASSES)[labels], rcond=None)[0].astype(np.float32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, task.CLASSES))
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(fitted[:-1].T))
        net[1].bias.copy_(torch.from_numpy(fitted[-1]))
    traced(net.eval(), torch.rand(2, 1, 8, 8)).save(str(tmp_path / "net.ts"))
    task.save_samples(tmp_path / "val.npz", 200, seed=3)
    (tmp_path / "r.yaml").write_text(
        IMAGE + "\ndata: {evaluate: {path: val.npz, inputs: {image: image}, label: y}}\n"
        "quantize: {mode: weight_only}\nmeasure: {repeats: 1}\n"
    )
    done = program("quantize", "net.ts", "-r", "r.yaml", "-o", "out.onnx")
    assert done.returncode == 0, done.stderr
    (out,) = [value.name for value in graph.load(tmp_path / "out.onnx").graph.outputs]
    x, y = task.samples(200, seed=3)
    (scores,) = session((tmp_path / "out.onnx").read_bytes()).run([out], {"image": x})
    assert (scores.argmax(1) == y).mean() > 0.8


# ---------------------------------------------------------------- refused

MODULES: dict[str, tuple[Callable[[], torch.jit.ScriptModule], str, str]] = {
    "training mode": (
        lambda: traced(Cnn().train(), torch.rand(2, 1, 8, 8)),
        IMAGE,
        "was saved in training mode (batch_norm uses the statistics of the batch); call .eval()",
    ),
    "dropout in training mode": (
        lambda: traced(nn.Dropout().train(), torch.rand(2, 3)),
        VECTOR,
        "was saved in training mode (dropout drops out); call .eval()",
    ),
    "frozen batch": (
        lambda: traced(Frozen(), torch.rand(2, 3)),
        VECTOR,
        "works at batch size 2 only, at 3 it fails",
    ),
    "branch on numbers": (
        lambda: torch.jit.script(Branch()),
        VECTOR,
        "has a branch, loop or length that depends on the numbers in a tensor",
    ),
    "loop on numbers": (
        lambda: torch.jit.script(Loop()),
        VECTOR,
        "has a branch, loop or length that depends on the numbers in a tensor",
    ),
    "branch on the batch size": (
        lambda: torch.jit.script(Asks()),
        VECTOR,
        "the axis 'batch' of x is free in the recipe, but the export works at",
    ),
    "attribute written": (
        lambda: torch.jit.script(Remembers()),
        VECTOR,
        "has state (last is written in forward)",
    ),
    "buffer written": (lambda: torch.jit.script(Counts()), VECTOR, "has state (seen is written in forward)"),
    "number for an input": (
        lambda: torch.jit.script(Scaled()),
        VECTOR,
        "forward takes times, which is no tensor (int)",
    ),
    "too many inputs": (
        lambda: traced(nn.ReLU(), torch.rand(2, 3)),
        VECTOR.replace("}}}", "}, y: {shape: [batch, 3]}}}"),
        "model.inputs: names 2 inputs, forward takes 1 (input)",
    ),
    "wrong shape": (
        lambda: traced(nn.Linear(4, 2), torch.rand(2, 4)),
        VECTOR,
        "the module fails on x [2, 3]",
    ),
    "not finite": (
        lambda: traced(_broken(), torch.rand(2, 3)),
        VECTOR,
        "NaN or infinite numbers",
    ),
    "quantised": (
        lambda: traced(_Quantised(), torch.rand(2, 3)),
        VECTOR,
        "the operator quantized::mul belongs to a quantised module",
    ),
    "writes when loaded": (lambda: torch.jit.script(WritesWhenLoaded()), VECTOR, "the method __setstate__"),
}


class _Quantised(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
        return torch.ops.quantized.mul(q, q, 0.1, 0).dequantize()


def _broken() -> nn.Module:
    layer = nn.Linear(3, 2)
    layer.weight.data[0, 0] = float("nan")
    return layer


@pytest.mark.parametrize("case", MODULES)
def test_refused_module(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, recipe, said = MODULES[case]
    make().save("net.pt")
    refused(Path("net.pt"), recipe, said, capsys)


BODY = "return torch.linear("
CODE = {
    "saves": ('torch.save(weight, "mark")', "the operator aten::save does more than compute"),
    "saves as a method": ('(weight).save("mark")', "the operator aten::save does more than compute"),
    "saves by the long name": (
        'ops.aten.save(weight, "mark")',
        "the operator aten::save does more than compute",
    ),
    "maps a file": ('_9 = torch.from_file("mark", True, 4)', "the operator aten::from_file does more"),
    "prints": ('print("hello")', "its code calls print"),
    "another library's operator": ("_9 = ops.mine.run(weight)", "the operator mine::run is not torch's own"),
    "remote call": ("_9 = ops.prim.rpc_sync(weight)", "the operator prim::rpc_sync is not torch's own"),
    "internal operator": ("_9 = torch._make_per_tensor_quantized_tensor(weight)", "is internal to torch"),
    "C++ class": ("_9 = __torch__.torch.classes.mine.Runner()", "uses the C++ class mine.Runner"),
    "with block": ("with _9:\n      pass", "scripted code with a `with` block"),
    "no grammar": ("return return", "is no TorchScript code"),
}


@pytest.mark.parametrize("case", CODE)
def test_refused_code(
    case: str,
    linear: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line, said = CODE[case]
    edited(linear, Path("net.pt"), _py=swap(BODY, f"{line}\n    {BODY}"))
    refused(Path("net.pt"), VECTOR, said, capsys)


def test_torch_itself_would_run_that_code(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the archives above do write files."""
    monkeypatch.chdir(tmp_path)
    edited(linear, Path("net.pt"), _py=swap(BODY, f"{CODE['saves'][0]}\n    {BODY}"))
    torch.jit.load("net.pt")(torch.rand(2, 3))
    assert os.path.exists("mark")
    os.remove("mark")
    torch.jit.script(WritesWhenLoaded()).save("set.pt")
    torch.jit.load("set.pt")
    assert os.path.exists("mark")


def truncated(linear: Path) -> None:
    Path("net.pt").write_bytes(linear.read_bytes()[:-900])


def prefixed(linear: Path) -> None:
    """Torch reads the directory at the end; other readers begin at the front."""
    Path("net.pt").write_bytes(b"#!/bin/sh\n" + linear.read_bytes())


def bomb(linear: Path) -> None:
    added(linear, Path("net.pt"), "extra", bytes(80 << 20), zipfile.ZIP_DEFLATED)


def twice(linear: Path) -> None:
    with zipfile.ZipFile(linear) as file:
        name = next(name for name in file.namelist() if name.endswith(".py"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        added(linear, Path("net.pt"), f"/{name}", b"")


def two_folders(linear: Path) -> None:
    added(linear, Path("net.pt"), "/other/data.pkl", b"")


def outside(linear: Path) -> None:
    added(linear, Path("net.pt"), "../../mark", b"x")


def pickle_of_code(linear: Path) -> None:
    evil = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00\x00\x00markq\x00\x85R."
    edited(linear, Path("net.pt"), data_pkl=lambda _: evil.replace(b"\x00\x00mark", b"mark"))


def no_weights(linear: Path) -> None:
    edited(linear, Path("net.pt"), data_pkl=lambda _: None)


def flipped(linear: Path) -> None:
    data = bytearray(linear.read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        info = next(info for info in file.infolist() if info.filename.endswith("data/0"))
    data[info.header_offset + 30 + len(info.filename) + 64] ^= 0xFF
    Path("net.pt").write_bytes(data)


def cpp_object(linear: Path) -> None:
    named = b"c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n"
    edited(linear, Path("net.pt"), data_pkl=lambda data: data[:2] + named + data[2:])


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "is a truncated or damaged zip archive"),
    "prefixed": (prefixed, ""),
    "bomb": (bomb, "would unpack to 838"),
    "one path twice": (twice, "holds one path twice"),
    "two folders": (two_folders, "has no single folder"),
    "path outside": (outside, "'linear/../../mark', which is outside of it"),
    "pickle of code": (pickle_of_code, "names os system, which is never loaded"),
    "no weights": (no_weights, "torch cannot load this TorchScript archive"),
    "flipped byte": (flipped, "in it is damaged"),
    "C++ object": (cpp_object, "an object of the C++ class"),
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
    refused(Path("net.pt"), VECTOR, said, capsys)
