"""Hugging Face folders to graphs. Oracle: the module of transformers that was saved."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mlcompress import graph
from mlcompress.checkpoint import load
from mlcompress.cli.app import _status
from mlcompress.exits import Exit
from mlcompress.recipe.sections import ModelSection
from tests.checkpoint.archives import refused
from tests.checkpoint.nets import seasoned
from tests.checkpoint.test_torchscript import run, spec

transformers = pytest.importorskip("transformers")

WORDS, PLACES = 11, 300


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=PLACES,
        num_labels=3,
        attn_implementation="eager",
    )
    return transformers.BertForSequenceClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=4,
        attn_implementation="eager",
    )
    return transformers.ViTForImageClassification(config)


@pytest.fixture(scope="module", autouse=True)
def _silent() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def words() -> nn.Module:
    return seasoned(bert())


@pytest.fixture(scope="module")
def folder(words: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    words.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> ir.Model:
    """Loaded while any connection fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _no_network)
        patch.setattr(socket, "getaddrinfo", _no_network)
        return load(folder)


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was used")


def test_inputs_outputs_and_names_are_those_of_the_class(model: ir.Model, words: nn.Module) -> None:
    found = graph.signature(model)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    assert [(one.name, one.shape) for one in found.inputs] == [
        (name, ("batch", "sequence")) for name in names
    ]
    assert [one.name for one in found.outputs] == ["logits"]
    assert set(dict(words.named_parameters())) <= set(model.graph.initializers)


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (4, 19)])
def test_a_text_model_computes_the_same(model: ir.Model, words: nn.Module, batch: int, length: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(1, WORDS, (batch, length), generator=generator)
    types = torch.randint(0, 2, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[:, length - 2 :] = 0
    with torch.no_grad():
        wanted = words(input_ids=ids, attention_mask=mask, token_type_ids=types).logits.numpy()
    np.testing.assert_allclose(run(model, ids, mask, types)[0], wanted, rtol=1e-4, atol=1e-5)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % WORDS
    np.testing.assert_allclose(
        run(model, changed, mask, types)[0], wanted, rtol=1e-4, atol=1e-5
    )  # it is masked


def test_an_image_model_in_shards_and_half_precision_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module: Any = seasoned(vit())
    module.half().save_pretrained("vit", max_shard_size="1KB")
    assert len(list(Path("vit").glob("*.safetensors"))) > 1
    Path("r.yaml").write_text("quantize: {mode: weight_only}\nmeasure: {repeats: 1}\n")
    assert _status(["quantize", "vit", "-r", "r.yaml", "-o", "out.onnx"]) == Exit.DONE
    made = graph.load(tmp_path / "out.onnx")
    (pixels,) = graph.signature(made).inputs
    assert (pixels.name, pixels.shape, pixels.dtype) == ("pixel_values", ("batch", 1, 8, 8), np.float32)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = module.float()(pixel_values=x).logits.numpy()
    error = np.abs(run(made, x)[0] - wanted).max()
    assert error < 0.1 * np.abs(wanted).max()  # int8 weights


def test_inputs_and_outputs_of_the_recipe(folder: Path, words: nn.Module) -> None:
    made = load(folder, spec("model: {inputs: {input_ids: {shape: [n, 7]}}, outputs: [scores]}"))
    assert [(one.name, one.shape, one.dtype) for one in graph.signature(made).inputs] == [
        ("input_ids", ("n", 7), np.int64)
    ]
    ids = torch.randint(0, WORDS, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(
            run(made, ids)[0], words(input_ids=ids).logits.numpy(), rtol=1e-4, atol=1e-5
        )


# ---------------------------------------------------------------- refused


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
    def act() -> None:
        path = Path("hf/config.json")
        made = json.loads(path.read_text())
        change(made)
        path.write_text(json.dumps(made))

    return act


def text(name: str, content: str) -> Callable[[], None]:
    def act() -> None:
        Path("hf", name).write_text(content)

    return act


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], None]:
    def act() -> None:
        state = load_file("hf/model.safetensors")
        change(state)
        save_file(state, "hf/model.safetensors")

    return act


def index(file: str) -> Callable[[], None]:
    def act() -> None:
        shutil.move("hf/model.safetensors", "hf/a.safetensors")
        shutil.copy("hf/a.safetensors", "outside.safetensors")
        Path("hf/model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"classifier.weight": file}})
        )

    return act


def only_bin() -> None:
    os.remove("hf/model.safetensors")
    Path("hf/pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00mark\x85R.")


def code() -> None:
    Path("hf/modeling_mine.py").write_text("open('mark', 'w')\n")
    config(lambda made: made.update(auto_map={"AutoModel": "modeling_mine.Mine"}, architectures=["Mine"]))()


def truncated() -> None:
    data = Path("hf/model.safetensors").read_bytes()
    Path("hf/model.safetensors").write_bytes(data[: len(data) // 2])


def nan(state: dict[str, torch.Tensor]) -> None:
    state["classifier.weight"][0, 0] = float("nan")


CASES: dict[str, tuple[Callable[[], None], str, str]] = {
    "code of its own": (code, "", "asks for code of its own (auto_map), which is never run"),
    "pickles only": (only_bin, "", "as 'pytorch_model.bin', which is not opened"),
    "no weights": (lambda: os.remove("hf/model.safetensors"), "", "holds no model.safetensors"),
    "truncated weights": (truncated, "", "truncated or damaged safetensors"),
    "index that leads out": (
        index("../outside.safetensors"),
        "",
        "'../outside.safetensors', which is no safetensors file",
    ),
    "index with an absolute path": (index("/etc/passwd"), "", "'/etc/passwd', which is no safetensors file"),
    "index to a pickle": (index("a.bin"), "", "'a.bin', which is no safetensors file of the folder"),
    "index to nothing": (index("b.safetensors"), "", "lacks 1 of the 1 files of its index"),
    "index without a map": (
        lambda: (index("a.safetensors")(), text("model.safetensors.index.json", "{}")())[0],
        "",
        "has no weight_map",
    ),
    "config lies about shapes": (
        config(lambda made: made.update(intermediate_size=16)),
        "",
        "3 of another shape (bert.encoder.layer.0.intermediate.dense.bias is [12], the config's [16]",
    ),
    "weights missing": (
        weights(lambda state: state.pop("classifier.bias")),
        "",
        "1 of 25 tensors missing (classifier.bias)",
    ),
    "not finite": (weights(nan), "", "NaN or infinite numbers in 1 tensors (classifier.weight)"),
    "config is no JSON": (text("config.json", "{"), "", "is no JSON"),
    "config is a list": (text("config.json", "[]"), "", "is no JSON object"),
    "config nests deeply": (text("config.json", "[" * 100_000), "", "is no JSON"),
    "no class": (config(lambda made: made.pop("architectures")), "", "config.json names no class"),
    "class is a path": (config(lambda made: made.update(architectures=["os.system"])), "", "names no class"),
    "class is none": (
        config(lambda made: made.update(architectures=["pipeline"])),
        "",
        "names the class 'pipeline', which",
    ),
    "class of another type": (
        config(lambda made: made.update(model_type="vit")),
        "",
        "belong to different models",
    ),
    "config of nonsense": (config(lambda made: made.update(hidden_size=-3)), "", "transformers cannot build"),
    "quantised": (
        config(lambda made: made.update(quantization_config={"quant_method": "x"})),
        "",
        "quantised already",
    ),
    "backbone on a server": (
        config(lambda made: made.update(backbone="resnet50")),
        "",
        "its backbone lies on a server",
    ),
    "adapter": (text("adapter_config.json", "{}"), "", "is an adapter (LoRA)"),
    "input it does not take": (
        lambda: None,
        "model: {inputs: {pixels: {}}}",
        "takes no pixels; it takes input_ids",
    ),
    "wrong number of outputs": (
        lambda: None,
        "model: {outputs: [a, b]}",
        "names 2 tensors, the module returns 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_folder(
    case: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "hf")
    change, recipe, said = CASES[case]
    change()
    refused(Path("hf"), recipe, said, capsys)


def test_implementations_named_in_the_config_are_not_used(folder: Path, tmp_path: Path) -> None:
    """They may name kernels on a server."""
    from mlcompress.checkpoint.huggingface_folder import config as read

    shutil.copytree(folder, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    made = json.loads(path.read_text()) | {
        "_attn_implementation": "someone/kernel",
        "inner": {"attn_implementation": "x/y"},
    }
    path.write_text(json.dumps(made))
    found = read(tmp_path / "hf")
    assert "_attn_implementation" not in found
    assert found["inner"] == {}


def test_settings_of_transformers_are_put_back(folder: Path) -> None:
    from huggingface_hub import constants
    from transformers.utils import logging

    before = constants.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(Exception, match="takes no x"):
        load(folder, ModelSection.model_validate({"inputs": {"x": {}}}))
    assert (constants.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
