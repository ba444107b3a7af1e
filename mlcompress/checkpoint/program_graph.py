"""The graph of an exported program, run step by step with torch's public operators."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mlcompress.checkpoint.archive import printable
from mlcompress.checkpoint.operators import apply, find
from mlcompress.checkpoint.program_file import dtype_of
from mlcompress.errors import ModelError, UnsupportedError

_INSTEAD = "export the module to ONNX, or give its state dict and `model.factory`"
_ARITHMETIC = "add sub mul floordiv truediv mod neg pow eq ne lt le gt ge and_ or_"
_NUMBERS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _ARITHMETIC.split()},
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "math.sqrt": math.sqrt,
    "torch.sym_int": torch.sym_int,
    "torch.sym_float": torch.sym_float,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
    "torch.sym_ite": torch.sym_ite,
    "torch._sym_sqrt": torch.sym_sqrt,
}
"""Arithmetic on lengths, by the name that the description has for it."""
_CHECKS = frozenset(
    [
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    ]
)
"""They compute nothing."""
_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_PLAIN = frozenset(
    [
        "as_int",
        "as_ints",
        "as_float",
        "as_floats",
        "as_bool",
        "as_bools",
        "as_string",
        "as_strings",
        "as_int_lists",
    ]
)

Values = dict[str, Any]


@dataclass(frozen=True)
class Name:
    """Stands for a value in arguments."""

    name: str


@dataclass(frozen=True)
class Step:
    """One node: `call(arguments)`, whose results get the names of `outputs` (None: not kept)."""

    call: Callable[[Sequence[Any], Mapping[str, Any]], Any]
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[Any] = field(default_factory=list)

    def run(self, values: Values) -> None:
        results = self.call(filled(self.args, values), filled(self.kwargs, values))
        if len(self.outputs) == 1:
            results = [results]
        for names, result in zip(self.outputs, results if self.outputs else [], strict=True):
            pairs = zip(names, result, strict=True) if isinstance(names, list) else [(names, result)]
            values.update((name, one) for name, one in pairs if name is not None)


def steps(graph: Mapping[str, Any]) -> list[Step]:
    """The nodes of a graph, each operator looked up.

    Raises UnsupportedError for operators that are never called and for branches and loops.
    """
    return [_step(node) for node in graph["nodes"]]


def _step(node: Mapping[str, Any]) -> Step:
    target = str(node["target"])
    outputs = [_names(one) for one in node["outputs"]]
    if target.startswith("torch.ops.higher_order."):
        return _nested(target.rpartition(".")[2], node, outputs)
    given = {str(one["name"]): argument(one["arg"]) for one in node["inputs"]}
    if target in _NUMBERS:
        function = _NUMBERS[target]
        return Step(lambda args, _: function(*args), list(given.values()), {}, outputs)
    parts = target.split(".")
    if parts[:2] != ["torch", "ops"] or len(parts) != 5:
        raise UnsupportedError(
            f"the operator {printable(target)} is not torch's own; only torch's own operators are read"
        )
    if parts[3] in _CHECKS:
        return Step(lambda *_: [], [], {})
    found = find(parts[2], parts[3], parts[4])
    return Step(lambda args, kwargs: apply(found, args, kwargs), [], given, outputs)


def _nested(name: str, node: Mapping[str, Any], outputs: list[Any]) -> Step:
    """Regions without gradients and without autocast are nothing special at inference."""
    given = [one["arg"] for one in node["inputs"]]
    at = next((k for k, one in enumerate(given) if "as_graph" in one), None)
    switches = [argument(one) for one in given[:at]]
    plain = name == "wrap_with_set_grad_enabled" or (
        name == "wrap_with_autocast" and switches[2:3] == [False]
    )
    if at is None or not plain:
        raise UnsupportedError(f"has a {printable(name)} region, which is not read; {_INSTEAD}")
    inner = given[at]["as_graph"]["graph"]
    body = steps(inner)
    names = [one["as_tensor"]["name"] for one in inner["inputs"]]
    results = [argument(one) for one in inner["outputs"]]

    def call(args: Sequence[Any], _: Mapping[str, Any]) -> Any:
        values: Values = dict(zip(names, args, strict=True))
        for step in body:
            step.run(values)
        made = filled(results, values)
        return (
            made[0]
            if len(outputs) == 1 and not isinstance(outputs[0], list)
            else [made]
            if len(outputs) == 1
            else made
        )

    return Step(call, [argument(one) for one in given[at + 1 :]], {}, outputs)


def _names(output: Mapping[str, Any]) -> Any:
    """The name, or the list of names, that an output binds."""
    (kind, value), *_ = output.items()
    if kind == "as_tensor":
        return value["name"]
    if kind == "as_tensors":
        return [one["name"] for one in value]
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return value.get("as_name")
    if kind == "as_none":
        return None
    raise UnsupportedError(
        f"a step gives {printable(kind.removeprefix('as_'))}, which is not read; {_INSTEAD}"
    )


def argument(given: Mapping[str, Any]) -> Any:
    """An argument as torch's operators take it; values are `Name`s."""
    (kind, value), *_ = given.items()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return Name(value["name"])
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats"):
        inner = "as_tensor" if kind == "as_tensors" else kind.removesuffix("s")
        return [argument({inner: one} if inner != "as_optional_tensor" else one) for one in value]
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return Name(value["as_name"]) if "as_name" in value else next(iter(value.values()))
    if kind == "as_scalar_type":
        return dtype_of(value, "a step")
    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_layout":
        return torch.strided
    if kind == "as_memory_format":
        return _FORMATS.get(value)
    if kind in _PLAIN:
        return _FLOATS.get(value, value) if kind == "as_float" and isinstance(value, str) else value
    raise UnsupportedError(
        f"a step takes {printable(kind.removeprefix('as_'))}, which is not read; {_INSTEAD}"
    )


def filled(given: Any, values: Mapping[str, Any]) -> Any:
    """Arguments with values in place of their names; raises ModelError for one that is not there."""
    if isinstance(given, Name):
        if given.name not in values:
            raise ModelError(f"reads {printable(given.name)} before it is computed; save it again")
        return values[given.name]
    if isinstance(given, list):
        return [filled(one, values) for one in given]
    if isinstance(given, dict):
        return {name: filled(one, values) for name, one in given.items()}
    return given
