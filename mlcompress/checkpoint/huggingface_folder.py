"""What lies in a Hugging Face folder: config.json and safetensors. Nothing in it is run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mlcompress.checkpoint import weights as files
from mlcompress.checkpoint.archive import printable
from mlcompress.checkpoint.detect import Kind
from mlcompress.errors import ModelError, UnsupportedError, shorten

_LARGEST_JSON = 64 * 2**20
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHERS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")
_IMPLEMENTATIONS = frozenset(
    f"{mark}{part}_implementation{tail}"
    for mark in ("", "_")
    for part in ("attn", "experts")
    for tail in ("", "_internal")
)
"""May name code on a server; what is used is chosen here."""


def config(folder: Path) -> dict[str, Any]:
    """config.json as transformers may have it: without choices of implementations.

    Raises UnsupportedError for code of its own, quantised weights, adapters, and ModelError when it is
    missing or damaged.
    """
    if (folder / "adapter_config.json").exists():
        raise UnsupportedError(
            f"{folder}: is an adapter (LoRA); merge it into its model with merge_and_unload() and save that"
        )
    found = _json(folder / "config.json")
    keys = dict(_entries(found))
    if "auto_map" in keys or keys.get("trust_remote_code"):
        raise UnsupportedError(
            f"{folder}: config.json asks for code of its own (auto_map), which is never run; export it to "
            "ONNX, or use "
            "`model.factory`"
        )
    if keys.get("quantization_config"):
        raise UnsupportedError(
            f"{folder}: its weights are quantised already (quantization_config); give the float model"
        )
    if keys.get("use_pretrained_backbone") or keys.get("backbone"):
        raise UnsupportedError(
            f"{folder}: its backbone lies on a server (backbone); export it to ONNX, or use `model.factory`"
        )
    classes = found.get("architectures")
    if not (
        isinstance(classes, list)
        and len(classes) == 1
        and isinstance(classes[0], str)
        and classes[0].isidentifier()
    ):
        example = '"architectures": ["BertForSequenceClassification"]'
        raise ModelError(f"{folder}: config.json names no class; add {example}, say, to it")
    for key in ("dtype", "torch_dtype"):
        found.pop(key, None)  # read as float32
    return {key: _without(one) for key, one in found.items() if key not in _IMPLEMENTATIONS}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors by name; floats as float32.

    Raises UnsupportedError for other formats than safetensors, and ModelError for missing or damaged files,
    an index that leads out of the folder, and numbers that are not finite.
    """
    if (folder / _WHOLE).is_file():
        state = files.read(folder / _WHOLE, Kind.SAFETENSORS)
    elif (folder / _INDEX).is_file():
        state = _shards(folder)
    else:
        other = sorted(path.name for pattern in _OTHERS for path in folder.glob(pattern))
        if other:
            raise UnsupportedError(
                f"{folder}: holds its weights as {shown(other[0])}, which is not opened; load it with "
                "transformers and "
                "save_pretrained() it anew, which writes safetensors"
            )
        raise ModelError(f"{folder}: holds no {_WHOLE}; save the model with save_pretrained()")
    kinds = {str(one.dtype).removeprefix("torch.") for one in state.values() if one.is_floating_point()}
    if odd := sorted(kinds - {"float64", "float32", "float16", "bfloat16"}):
        raise UnsupportedError(
            f"{folder}: its weights are quantised already ({odd[0]}); give the float model"
        )
    return {name: one.float() if one.is_floating_point() else one for name, one in state.items()}


def _shards(folder: Path) -> dict[str, torch.Tensor]:
    placed = _json(folder / _INDEX).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise ModelError(f"{folder}: {_INDEX} has no weight_map; save the model again")
    names = sorted(set(placed.values()))
    if odd := [name for name in names if name != Path(name).name or not name.endswith(".safetensors")]:
        raise ModelError(
            f"{folder}: {_INDEX} leads to {printable(odd[0])!r}, which is no safetensors file of the "
            "folder; it is not opened"
        )
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder}: lacks {len(lost)} of the {len(names)} files of its index ({shorten(lost)}); copy it "
            "again"
        )
    state: dict[str, torch.Tensor] = {}
    for name in names:
        state |= files.read(folder / name, Kind.SAFETENSORS)
    if lost := sorted(set(placed) - set(state)):
        raise ModelError(
            f"{folder}: its files lack {len(lost)} of the tensors of its index ({shorten(lost, 3)}); copy "
            "it again"
        )
    return state


def image_size(folder: Path, described: dict[str, Any]) -> list[int | str] | None:
    """[height, width] as config.json or preprocessor_config.json says, or None."""
    options = [described.get("image_size")]
    if (folder / "preprocessor_config.json").is_file():
        steps = _json(folder / "preprocessor_config.json")
        options += [steps.get("crop_size"), steps.get("size")]
    for given in options:
        if isinstance(given, dict):
            given = (
                [given.get("height"), given.get("width")] if "height" in given else given.get("shortest_edge")
            )
        sides = given if isinstance(given, list) else [given, given]
        if len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
            return list(sides)
    return None


def shown(value: Any) -> str:
    """A value of a file, quoted for an error."""
    return repr(printable(str(value)))


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(f"{path}: is larger than any config; it is not opened")
        made = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: is no JSON; copy or save it again") from None
    if not isinstance(made, dict):
        raise ModelError(f"{path}: is no JSON object; copy or save it again")
    return made


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values at any depth."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key, one
            yield from _entries(one)
    elif isinstance(value, list):
        for one in value:
            yield from _entries(one)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(one) for key, one in value.items() if key not in _IMPLEMENTATIONS}
    return [_without(one) for one in value] if isinstance(value, list) else value
