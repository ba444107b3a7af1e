"""A compiled TorchScript graph, run step by step with torch's public operators.

So torch's exporter sees plain tensors: it keeps BatchNormalization and the names of the weights, which it
does not where it is given TorchScript. Branches are taken as the numbers say (flags, ranks, lengths that are
known).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mlcompress.checkpoint.operators import apply, find
from mlcompress.checkpoint.replay import Replay
from mlcompress.checkpoint.script_numbers import NUMBERS, OF_TENSORS, code
from mlcompress.errors import ModelError, UnsupportedError

_INSTEAD = "export the module to ONNX, or give its state dict and `model.factory`"
_MOST_ROUNDS = 10_000
_NUMBERS = (torch.int64, torch.float64, torch.bool)
"""Tensors without axes of these dtypes are what tracing makes of numbers in the code."""
_Node = Any
_Value = Any


class _Place(str):
    """Dotted path of a submodule."""


def replay(script: torch.jit.ScriptModule) -> Replay:
    """The module's forward over its parameters and buffers, named as in its state dict.

    Running it raises UnsupportedError for what has no form in a graph: branches and loops that depend on
    tensors, state that is written, other operators than torch's own; ModelError where it was saved in
    training mode.
    """
    weights = _weights(script)
    graph = script.inlined_graph
    constants = dict(_constants(graph, weights))
    run = _Run(script, graph, constants)
    return Replay(weights, run.compute)


def _weights(script: torch.jit.ScriptModule) -> dict[str, torch.Tensor]:
    """Tied tensors stay one object."""
    seen: dict[tuple[Any, ...], torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    parameters = dict(script.named_parameters(remove_duplicate=False))
    for name, tensor in (*parameters.items(), *script.named_buffers(remove_duplicate=False)):
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        one = seen.setdefault(key, tensor) if tensor.numel() else tensor
        if name in parameters and not isinstance(one, torch.nn.Parameter):
            one = seen[key] = torch.nn.Parameter(one.detach(), requires_grad=one.is_floating_point())
        found[name] = one
    return found


def _constants(graph: Any, weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, Any]]:
    """Constant tensors by the name of their value: numbers where the code had numbers, else as weights."""
    for node in _nodes(graph):
        value = node.output().toIValue() if node.kind() == "prim::Constant" else None
        if not isinstance(value, torch.Tensor):
            continue
        if value.dim() == 0 and value.dtype in _NUMBERS:
            yield node.output().debugName(), value.item()
            continue
        name = f"constant_{sum(one.startswith('constant_') for one in weights)}"
        weights[name] = value.detach()
        yield node.output().debugName(), _Place(name)


def _nodes(block: Any) -> Iterator[_Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


class _Run:
    """One graph; `compute` may be called any number of times."""

    def __init__(self, script: torch.jit.ScriptModule, graph: Any, constants: dict[str, Any]) -> None:
        self._script = script
        self._graph = graph
        self._constants = constants
        self._weights: Mapping[str, torch.Tensor] = {}

    def compute(self, weights: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]) -> Any:
        self._weights = weights
        names = [value.debugName() for value in self._graph.inputs()]
        values = dict(zip(names, [_Place(""), *inputs], strict=True))
        return self._block(self._graph, values)[0]

    def _block(self, block: Any, values: dict[str, Any]) -> list[Any]:
        for node in block.nodes():
            given = [values[value.debugName()] for value in node.inputs()]
            results = self._step(node, given, values)
            for value, result in zip(node.outputs(), results, strict=True):
                values[value.debugName()] = result
        return [values[value.debugName()] for value in block.outputs()]

    def _step(self, node: _Node, given: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        kind = node.kind()
        if kind == "prim::If":
            return self._branch(node, given[0], values)
        if kind == "prim::GetAttr":
            return [self._attribute(given[0], node.s("name"))]
        if kind == "prim::Constant":
            return [self._constant(node.output())]
        if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
            return list(given[0])
        if kind == "prim::RaiseException":
            raise ModelError(f"its code raises: {given[0]}")
        if kind == "prim::SetAttr":
            raise UnsupportedError(
                f"has state ({node.s('name')} is written in forward), which a graph cannot hold; {_INSTEAD}"
            )
        if kind == "prim::Loop":
            return self._loop(node, given, values)
        if kind.startswith("prim::"):
            return [_primitive(kind, given)]
        return _results(node, _operator(node, given))

    def _branch(self, node: _Node, condition: Any, values: dict[str, Any]) -> list[Any]:
        if isinstance(condition, torch.Tensor):
            raise UnsupportedError(
                f"has a branch that depends on the input, which a graph cannot hold; {_INSTEAD}"
            )
        blocks = list(node.blocks())
        return self._block(blocks[0 if condition else 1], values)

    def _loop(self, node: _Node, given: list[Any], values: dict[str, Any]) -> list[Any]:
        most, going, *carried = given
        (body,) = node.blocks()
        names = [value.debugName() for value in body.inputs()]
        done = 0
        while True:
            if not isinstance(most, int) or not isinstance(going, bool) or done > _MOST_ROUNDS:
                raise UnsupportedError(
                    f"has a loop that depends on the input, which a graph cannot hold; {_INSTEAD}"
                )
            if not going or done >= most:
                return carried
            values.update(zip(names, [done, *carried], strict=True))
            going, *carried = self._block(body, values)
            done += 1

    def _attribute(self, place: _Place, name: str) -> Any:
        path = f"{place}.{name}" if place else name
        if path in self._weights:
            return self._weights[path]
        owner: Any = self._script
        for part in filter(None, place.split(".")):
            owner = getattr(owner, part)
        value = getattr(owner, name)
        return _Place(path) if isinstance(value, torch.nn.Module) else value

    def _constant(self, value: _Value) -> Any:
        known = self._constants.get(value.debugName())
        if isinstance(known, _Place):
            return self._weights[known]
        return value.toIValue() if known is None else known


def _primitive(kind: str, given: list[Any]) -> Any:
    name = kind.removeprefix("prim::")
    if name in ("ListConstruct", "TupleConstruct"):
        return tuple(given) if name == "TupleConstruct" else list(given)
    if name == "DictConstruct":
        return dict(zip(given[::2], given[1::2], strict=True))
    if name == "TupleIndex":
        return given[0][given[1]]
    if name in ("NumToTensor", "unchecked_cast", "unchecked_unwrap_optional", "data"):
        return given[0]
    if name == "dtype":
        return code(given[0].dtype)
    if name in ("device", "layout"):
        return getattr(given[0], name)
    if name == "Uninitialized":
        return None
    if name in ("min", "max"):
        return (min if name == "min" else max)(*given)
    if name.startswith("is_"):
        return bool(getattr(given[0], name))
    raise UnsupportedError(f"has the step {kind}, which is not known; {_INSTEAD}")


def _operator(node: _Node, given: list[Any]) -> Any:
    namespace, _, name = node.kind().partition("::")
    flat = [item for one in given for item in (one if isinstance(one, list | tuple) else [one])]
    own = OF_TENSORS if any(isinstance(item, torch.Tensor) for item in flat) else NUMBERS
    if namespace == "aten" and name in own and not (name == "slice" and own is OF_TENSORS):
        return own[name](*given)
    full = node.schema().partition("(")[0].rpartition("::")[2]
    operator = find(namespace, name, full.partition(".")[2])
    split = next((k for k, one in enumerate(operator._schema.arguments) if one.kwarg_only), len(given))
    tail = {
        one.name: value for one, value in zip(operator._schema.arguments[split:], given[split:], strict=True)
    }
    return apply(operator, given[:split], tail)


def _results(node: _Node, result: Any) -> Sequence[Any]:
    count = len(list(node.outputs()))
    return [result] if count == 1 else [] if count == 0 else list(result)
