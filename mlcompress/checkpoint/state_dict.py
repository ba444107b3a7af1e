"""A state dict and the module that it belongs to: found in its containers, matched as a whole, copied in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mlcompress import console
from mlcompress.errors import ModelError, UnsupportedError, shorten

CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
)
"""Keys under which training scripts keep weights. Of those that fit, the first is taken."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Left in front of every name by DataParallel, torch.compile and wrappers such as Lightning's."""
_DEPTH = 3
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Candidate:
    """One set of tensors in a checkpoint, as it could be named, against the module's."""

    place: str
    """The container, `a.b` where one lies in another, or an empty text for the file itself."""
    tensors: Tensors
    others: tuple[str, ...]
    """Names of entries beside them that are no tensors."""
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)


def fill(module: torch.nn.Module, content: Any, where: str, source: str) -> None:
    """Copy the weights in `content`, what the checkpoint `where` holds, into `module`, which `source` built.

    The tensors must match the module's state dict as a whole: names, shapes, floats for floats. They are
    looked for in the containers (see `CONTAINERS`), one in another at most, and `PREFIXES` that all names
    share are taken off where that makes them match. `num_batches_tracked` may be missing, and names that the
    module ties to one that is there. What was chosen, converted or left is said on stderr.

    Raises:
        ModelError: one line with counts and first names of what does not match; or of weights that are not
            finite.
        UnsupportedError: quantised or sparse tensors.
    """
    own = _own(module, source)
    candidates = [_compare(place, tensors, others, module, own) for place, tensors, others in _sets(content)]
    if not candidates:
        raise ModelError(
            f"{where}: holds no tensors by name (but {_kind(content)}); save module.state_dict()"
        )
    best = min(candidates, key=lambda one: one.faults)  # the first of equals
    if best.faults:
        raise ModelError(f"{where}: {_misfit(best, own, source)}")
    _refuse_special(best, where)
    _tell(best, [one for one in candidates if one.faults == 0], own, where)
    with torch.no_grad():
        for name, tensor in best.tensors.items():
            if name in own:
                own[name].copy_(tensor)
    refuse_infinite(module, own, where)
    untied = [name for name in best.tensors if name in own and not _is_same(own[name], best.tensors[name])]
    if untied:
        raise ModelError(
            f"{where}: has different numbers for tensors that {source} ties ({shorten(untied)}); "
            "mend model.factory"
        )


def _is_same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.equal(ours.nan_to_num(), theirs.to(ours.dtype).nan_to_num())


def _own(module: torch.nn.Module, source: str) -> dict[str, torch.Tensor]:
    if any(torch.nn.parameter.is_lazy(one) for one in (*module.parameters(), *module.buffers())):
        raise ModelError(
            f"{source}: has lazy layers, whose shapes are not known yet; give them their lengths"
        )
    return {name: one for name, one in module.state_dict().items() if isinstance(one, torch.Tensor)}


def _sets(content: Any, place: str = "", depth: int = 2) -> Iterator[tuple[str, Tensors, tuple[str, ...]]]:
    """(container, tensors, other entries) of each dictionary of tensors, in order of preference."""
    if not isinstance(content, Mapping):
        return
    tensors = {key: one for key, one in content.items() if isinstance(key, str) and torch.is_tensor(one)}
    if tensors:
        yield place, tensors, tuple(str(key) for key in content if key not in tensors)
    for key in CONTAINERS if depth else ():
        if key in content:
            yield from _sets(content[key], f"{place}.{key}" if place else key, depth - 1)


def _compare(
    place: str,
    tensors: Tensors,
    others: tuple[str, ...],
    module: torch.nn.Module,
    own: dict[str, torch.Tensor],
) -> _Candidate:
    """The naming of `tensors` that fits best: as they are, or without prefixes, or torch.compile's marks."""
    made = [_against(place, named, others, module, own) for named in _namings(tensors)]
    return min(made, key=lambda one: one.faults)


def _namings(tensors: Tensors) -> Iterator[Tensors]:
    yield tensors
    named = dict(tensors)
    counter = named.pop("n_averaged", None)  # of torch.optim.swa_utils.AveragedModel
    if counter is not None and counter.numel() != 1:
        named = dict(tensors)
    for _ in range(_DEPTH):
        prefix = next(
            (one for one in PREFIXES if named and all(name.startswith(one) for name in named)), None
        )
        if prefix is None:
            break
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
        yield named
    inner = {name.replace("_orig_mod.", ""): tensor for name, tensor in named.items()}
    if inner.keys() != named.keys() and len(inner) == len(named):
        yield inner


def _against(
    place: str,
    tensors: Tensors,
    others: tuple[str, ...],
    module: torch.nn.Module,
    own: dict[str, torch.Tensor],
) -> _Candidate:
    there = {_memory(own[name]) for name in tensors if name in own}
    buffers = dict(module.named_buffers())
    missing = [
        name
        for name in own
        if name not in tensors
        and not name.endswith("num_batches_tracked")
        and _memory(own[name]) not in there
    ]
    unexpected = [
        name
        for name, tensor in tensors.items()
        if name not in own and not (name in buffers and _equal(buffers[name], tensor))
    ]
    mismatched = [name for name, tensor in tensors.items() if name in own and not _fits(tensor, own[name])]
    return _Candidate(place, tensors, others, missing, unexpected, mismatched)


def _memory(tensor: torch.Tensor) -> tuple[int, ...]:
    """Equal for tied tensors; empty ones share address 0."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.data_ptr(), *tensor.shape, *tensor.stride())


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Is a tensor that older versions saved the one that the module makes itself?"""
    return ours.shape == theirs.shape and ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def _fits(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    convertible = theirs.dtype in _FLOATS and ours.dtype in _FLOATS
    integers = not (theirs.is_floating_point() or ours.is_floating_point() or theirs.is_complex())
    same_kind = theirs.dtype == ours.dtype or convertible or (integers and not ours.is_complex())
    return theirs.shape == ours.shape and same_kind


def _misfit(best: _Candidate, own: dict[str, torch.Tensor], source: str) -> str:
    """One line: counts and the first names of what is wrong."""
    parts = []
    if best.missing:
        parts.append(f"{len(best.missing)} of {len(own)} tensors missing ({shorten(best.missing, 3)})")
    if best.unexpected:
        parts.append(f"{len(best.unexpected)} unexpected ({shorten(best.unexpected, 3)})")
    if best.mismatched:
        name = best.mismatched[0]
        told = f"{name} is {_spelt(best.tensors[name])}, the module's {_spelt(own[name])}"
        more = f"; also {shorten(best.mismatched[1:], 2)}" if len(best.mismatched) > 1 else ""
        parts.append(f"{len(best.mismatched)} of another shape or type ({told}{more})")
    at = f"its `{best.place}` does" if best.place else "does"
    return f"{at} not fit what {source} builds: {', '.join(parts)}; mend model.factory or model.kwargs"


def _spelt(tensor: torch.Tensor) -> str:
    return f"{_dtype(tensor)} {list(tensor.shape)}"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"the entries {shorten(map(str, content))}" if content else "nothing"
    return f"a {type(content).__name__}"


def _refuse_special(chosen: _Candidate, where: str) -> None:
    """Tensors whose numbers are not simply there."""
    odd = [name for name, one in chosen.tensors.items() if one.layout != torch.strided or one.is_quantized]
    if odd:
        raise UnsupportedError(f"{where}: quantised or sparse tensors ({shorten(odd)}); save dense floats")
    if empty := [name for name, one in chosen.tensors.items() if one.is_meta]:
        raise ModelError(
            f"{where}: tensors without numbers, on the meta device ({shorten(empty)}); save it again"
        )


def refuse_infinite(module: torch.nn.Module, own: dict[str, torch.Tensor], where: str) -> None:
    """NaN anywhere, or infinities among the parameters (buffers may be masks of them)."""
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    bad = [
        name
        for name, tensor in own.items()
        if tensor.is_floating_point()
        and not (torch.isfinite(tensor).all() if name in learned else not torch.isnan(tensor).any())
    ]
    if bad:
        raise ModelError(
            f"{where}: NaN or infinite numbers in {len(bad)} tensors ({shorten(bad)}); "
            "training has diverged: take an earlier checkpoint"
        )


def _tell(chosen: _Candidate, fitting: list[_Candidate], own: dict[str, torch.Tensor], where: str) -> None:
    """What was taken, left and converted."""
    place = f"`{chosen.place}`" if chosen.place else "the file itself"
    if rest := [f"`{one.place}`" for one in fitting if one is not chosen]:
        console.say(f"{where}: the weights of {place} are taken; {shorten(rest)} would fit too")
    elif chosen.place:
        console.say(f"{where}: the weights of {place} are taken")
    if chosen.others and not chosen.place:
        console.say(f"{where}: entries that are no tensors are left: {shorten(chosen.others)}")
    changed: dict[tuple[str, str], int] = {}
    for name, tensor in chosen.tensors.items():
        if name in own and tensor.is_floating_point() and tensor.dtype != own[name].dtype:
            pair = (_dtype(tensor), _dtype(own[name]))
            changed[pair] = changed.get(pair, 0) + 1
    for (theirs, ours), count in changed.items():
        console.say(f"{where}: {count} {theirs} tensors are converted to the module's {ours}")
