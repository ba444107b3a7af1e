"""What a run needs to go on after it was killed: one safetensors file, replaced after each epoch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mlcompress.files import write_atomic

_SEPARATOR = "|"  # between the group and the name of a tensor


@dataclass
class State:
    """A run after `epoch` whole epochs. `tensors` by group (weights, best, average, optimizer) and name."""

    epoch: int
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any] = field(default_factory=dict)
    """Everything that is not a tensor, as JSON types."""


def save_state(path: Path, key: str, state: State) -> None:
    """Write `state` under `key`, the hash of all that the run depends on."""
    flat = {
        f"{group}{_SEPARATOR}{name}": tensor.detach().cpu().contiguous().clone()
        for group, members in state.tensors.items()
        for name, tensor in members.items()
    }
    header = json.dumps({"key": key, "epoch": state.epoch, "facts": state.facts})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(flat, {"mlcompress": header}))


def load_state(path: Path, key: str) -> State | None:
    """The state under `path`, or None where there is none, it is broken, or it belongs to another run."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mlcompress", "{}"))
            if header.get("key") != key:
                return None
            tensors: dict[str, dict[str, Tensor]] = {}
            for flat in file.keys():  # noqa: SIM118 - not a mapping
                group, name = flat.split(_SEPARATOR, 1)
                tensors.setdefault(group, {})[name] = file.get_tensor(flat)
    except (SafetensorError, json.JSONDecodeError):
        return None
    return State(header["epoch"], tensors, header["facts"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer (momentum, second moments, step counts) as `index/key`."""
    return {
        f"{index}/{key}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for key, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    slots: dict[int, dict[str, Tensor]] = {}
    for flat, value in tensors.items():
        index, key = flat.split("/", 1)
        slots.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 hex over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
