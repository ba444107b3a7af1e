"""Weights files: what torch.save and safetensors write, read without running anything in them."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED

import torch

from mlcompress.checkpoint.archive import open_archive
from mlcompress.checkpoint.detect import Kind
from mlcompress.errors import ModelError, UnsupportedError, one_line

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_SAFELY = "save module.state_dict() alone with torch.save, or as safetensors"


def read(path: Path, kind: Kind) -> Any:
    """The tensors and containers in a file, on the CPU; those of zip archives and safetensors are mapped.

    Raises ModelError for a damaged file, and UnsupportedError for one that holds more than tensors, plain
    numbers, texts and containers: it is not unpickled.
    """
    if kind is Kind.SAFETENSORS:
        return _safetensors(path)
    stored = _stored_bytes(path) if kind is Kind.TORCH else None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
            content = torch.load(path, weights_only=True, mmap=stored is not None, map_location="cpu")
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        if found is None:
            raise _damaged(path, "torch checkpoint") from None
        raise UnsupportedError(
            f"{path}: holds {found[1]}, which is not unpickled because it can run code; {_SAFELY}"
        ) from None
    except Exception:  # torch's readers break in many ways on a damaged file
        raise _damaged(path, "torch checkpoint") from None
    if stored is not None and _mapped_bytes(content) > stored:
        raise _damaged(path, "torch checkpoint")
    return content


def _stored_bytes(path: Path) -> int:
    """Bytes of all numbers in an archive of torch, which is refused unless they can be mapped."""
    archive = open_archive(path)
    packed = [name for name in archive.under("data/") if archive.entries[name].compress_type != ZIP_STORED]
    if packed:
        raise ModelError(f"{path}: its tensors are compressed, which torch never does; save it again")
    return sum(archive.entries[name].file_size for name in archive.under("data/"))


def _mapped_bytes(content: Any) -> int:
    """Bytes that the tensors in `content` read; torch maps whatever follows where an entry is too short."""
    storages: dict[int, int] = {}
    waiting, seen = [content], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:  # a pickle may put a list into itself
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        elif torch.is_tensor(one) and one.layout == torch.strided and not one.is_meta:
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(path, "safetensors file", one_line(error)) from None
    return tensors


def _damaged(path: Path, what: str, told: str = "") -> ModelError:
    said = f" ({told[:120]})" if told else ""
    return ModelError(f"{path}: is a truncated or damaged {what}{said}; copy or save it again")
