"""TorchScript files: a trace of the executor with every dynamic length kept dynamic.

A trace records what one run did. Control flow, and shapes that are computed from the values of the inputs,
would be frozen to what they were in that run, so they are refused by name before anything is done. Whatever
else was frozen shows when the file is run at other lengths (`agree.check`).
"""

import inspect
import io
import itertools
import keyword
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from mlcompress import graph
from mlcompress.errors import ModelError, UnsupportedError, shorten
from mlcompress.train import agree
from mlcompress.train.executor import Executor
from mlcompress.train.ops import OPS
from mlcompress.train.ops.host import SOURCES
from mlcompress.train.ops.node import Node
from mlcompress.train.plan import problems
from mlcompress.train.values import read

CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Ops that run sub-graphs."""

TAIL = "name the output .onnx"

Feed = Mapping[str, np.ndarray]
"""Inputs of one run by name."""


def refuse(model: ir.Model) -> None:
    """Raises UnsupportedError that names every op of `model` that cannot be traced."""
    control: dict[str, list[str]] = {}
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx") and node.op_type in CONTROL:
            control.setdefault(node.op_type, []).append(node.name or str(node.outputs[0].name))
    lines = [
        f"op {op} (nodes {shorten(names)}) would be frozen to what it does in one run"
        for op, names in control.items()
    ]
    if not lines:
        seen = read(model)
        lines = problems(seen.nodes) or _frozen_by_values(seen.nodes, seen.inputs)
    if lines:
        raise UnsupportedError(*(f"model: cannot write TorchScript: {line}; {TAIL}" for line in lines))


def write(model: ir.Model, path: Path, twin: Path, feeds: Sequence[Feed]) -> None:
    """Trace `model` and write it to `path`, then compare that file with `model` in a process of its own.

    `forward` takes the graph's inputs in their order, by position or by name (see `arguments`), and gives one
    tensor, or a tuple in the order of the graph's outputs. Weights keep their type on disk: what
    DequantizeLinear or Cast decodes is decoded in every run.

    Args:
        twin: the same model as ONNX file, which stock onnxruntime runs.
        feeds: the trace is made with the first; every one is compared. They should differ in each dynamic
            length, and hold the inputs in their order.

    Raises:
        UnsupportedError: something cannot be traced.
        ModelError: the file does not compute what the twin does.
    """
    refuse(model)
    executor = Executor(model, purpose="write TorchScript", keep_stored=True).eval().requires_grad_(False)
    outputs = [tensor.name for tensor in graph.signature(model).outputs]
    path.write_bytes(_archive(_traced(executor, feeds[0], outputs)))
    wrong = agree.check(path, twin, executor, feeds, arguments(feeds[0]))
    if wrong is not None:
        frozen = _frozen_node(executor, feeds[0], wrong.feed)
        if frozen is None:
            raise ModelError(f"model: cannot write TorchScript: {wrong.text}; {TAIL}")
        what = f"op {frozen.op} (node {frozen.name}) is frozen to the lengths of one run"
        raise UnsupportedError(f"model: cannot write TorchScript: {what}: {wrong.text}; {TAIL}")


def arguments(inputs: Iterable[str]) -> dict[str, str]:
    """Names of forward's arguments by input name.

    What is no letter or digit becomes `_`; keywords get a `_` at the end, leading digits one in front, and
    equal names a number.
    """
    names: dict[str, str] = {}
    for name in inputs:
        plain = re.sub(r"[^0-9A-Za-z_]", "_", name)
        plain = f"_{plain}" if plain[:1].isdigit() or not plain else plain
        plain = f"{plain}_" if keyword.iskeyword(plain) or plain == "self" else plain
        taken = names.values()
        names[name] = next(
            one for one in (plain, *(f"{plain}_{k}" for k in range(2, len(names) + 3))) if one not in taken
        )
    return names


def _frozen_by_values(nodes: Sequence[Node], inputs: Iterable[str]) -> list[str]:
    """Nodes that are told a shape, bound or count by the values of the inputs, not by their lengths."""
    from_data = set(inputs)
    found: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        if node.op in SOURCES or not from_data.intersection(node.inputs):
            continue
        from_data.update(name for name in node.outputs if name)
        op = OPS[node.op]
        for index in sorted(op.host):
            if index < len(node.inputs) and node.inputs[index] in from_data:
                found.setdefault((node.op, op.inputs[index]), []).append(node.name)
    return [
        f"op {op} (nodes {shorten(names)}): its input {formal} is computed from the values of the inputs"
        for (op, formal), names in found.items()
    ]


def _frozen_node(executor: Executor, traced_at: Feed, wrong: Feed) -> Node | None:
    """The first node that a trace gets wrong for the feed `wrong`, found by halving; None: there is none."""
    nodes = [node for node in read(executor.model).nodes if any(node.outputs)]

    def is_right(place: int) -> bool:
        name = next(name for name in nodes[place].outputs if name)
        given = {key: torch.from_numpy(array) for key, array in wrong.items()}
        try:
            found = _traced(executor, traced_at, [name])(*given.values())
        except RuntimeError:
            return False
        with torch.no_grad():
            expected = executor(given, [name])[name]
        return agree.difference(found.numpy(), expected.numpy(), agree.FLOAT) is None

    low, high = 0, len(nodes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if is_right(middle) else (low, middle)
    return nodes[low] if low < len(nodes) else None


def _traced(executor: Executor, feed: Feed, outputs: Sequence[str]) -> torch.jit.ScriptModule:
    """A trace of `executor` with the inputs of `feed`, which gives the values `outputs`."""
    example = tuple(torch.from_numpy(array) for array in feed.values())
    with warnings.catch_warnings(), torch.no_grad():
        # Numbers taken from a length are no error: those that matter show at other lengths.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # torch announces that TorchScript will go; until then it is what C++ programs load.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        module = _module(executor, list(feed), outputs)
        made: torch.jit.ScriptModule = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        return made


def _module(executor: Executor, inputs: Sequence[str], outputs: Sequence[str]) -> nn.Module:
    """A module that holds the executor's tensors; `state_dict()` names them as the initializers are."""
    names = arguments(inputs)
    taps = [name for name in outputs if name not in executor.outputs]

    def forward(self: nn.Module, *given: Tensor) -> Any:
        found = executor(dict(zip(inputs, given, strict=True)), taps)
        return found[outputs[0]] if len(outputs) == 1 else tuple(found[name] for name in outputs)

    kinds = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names.values())
    ]
    # torch reads the names of the arguments from here
    forward.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]
    root = _holder(0, forward=forward)
    parts = itertools.count(1)
    for name, tensor in executor.tensors.items():
        *path, leaf = (part or "_" for part in name.split("."))
        holder = root
        for part in path:
            while part not in holder._modules and _is_taken(part, holder):
                part += "_"
            if part not in holder._modules:
                holder._modules[part] = _holder(next(parts))
            holder = holder._modules[part]  # type: ignore[assignment]
        while _is_taken(leaf, holder):
            leaf += "_"
        # Not by `register_buffer`, which refuses names that TorchScript takes.
        place: dict[str, Any] = holder._parameters if isinstance(tensor, nn.Parameter) else holder._buffers
        place[leaf] = tensor
    return root


def _holder(number: int, **methods: Any) -> nn.Module:
    """A module of a class of its own, whose name is the same whatever else the process has traced."""
    made: nn.Module = type("Module", (nn.Module,), {"__module__": f"mlcompress.part{number}", **methods})()
    return made


def _is_taken(name: str, holder: nn.Module) -> bool:
    """Whether TorchScript could not call an attribute so: a keyword, or something else of `holder`."""
    return keyword.iskeyword(name) or hasattr(holder, name)


_MANGLED = re.compile(rb"(__torch__[./]mlcompress[./]part\d+)[./]___torch_mangle_\d+")
"""torch numbers the classes of one name that it has seen in this process."""


def _archive(traced: torch.jit.ScriptModule) -> bytes:
    """The bytes of a TorchScript file, the same for the same model.

    Left out are the debug records (source paths of this machine) and the serialization id (a hash over them):
    torch loads files without either. torch has no public writer without them, but the file is a plain zip.
    """
    raw, made = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        torch.jit.save(traced, raw)
    with zipfile.ZipFile(raw) as read_from, zipfile.ZipFile(made, "w") as archive:
        for record in read_from.infolist():
            name = record.filename
            if name.endswith((".debug_pkl", ".data/serialization_id")):
                continue
            content = read_from.read(record)
            if name.endswith((".py", ".pkl")):
                content = _MANGLED.sub(rb"\1", content)
            entry = zipfile.ZipInfo(_MANGLED.sub(rb"\1", name.encode()).decode(), (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content, record.compress_type)
    return made.getvalue()
