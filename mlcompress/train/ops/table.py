"""Which ops have a trainable form, and what of each is refused: read off the functions and onnx's schemas."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx

from mlcompress.train.kinds import number_of
from mlcompress.train.ops import OPS
from mlcompress.train.ops.node import Op

FIRST, LAST = 7, 23
"""Opsets whose forms the table lists."""


@dataclass(frozen=True)
class Row:
    """One op."""

    name: str
    opsets: tuple[int, ...]
    """Versions of its definition that are in force between FIRST and LAST; () for an op that came later."""
    attributes: tuple[str, ...]
    """What it honours, in any of the versions."""
    refused: tuple[str, ...]
    """Attributes, inputs, outputs and element types that a version has and the executor refuses."""
    reasons: tuple[str, ...]
    """Other refusals, `...` where the node's own numbers or names stand."""


def rows() -> list[Row]:
    """All ops of the default domain, by name."""
    versions: dict[str, list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, []).append(schema)
    return [_row(name, OPS[name], versions.get(name, [])) for name in sorted(OPS) if "." not in name]


def _row(name: str, op: Op, schemas: list[Any]) -> Row:
    until = sorted((s for s in schemas if s.since_version <= LAST), key=lambda schema: schema.since_version)
    oldest = max((s.since_version for s in until if s.since_version <= FIRST), default=FIRST)
    inforce = [schema for schema in until if schema.since_version >= oldest]
    own = [
        parameter.name
        for parameter in inspect.signature(op.build).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    known = {attribute for schema in inforce for attribute in schema.attributes}
    return Row(
        name,
        tuple(schema.since_version for schema in inforce),
        tuple(sorted(known.intersection(own)) if inforce else sorted(own)),
        tuple(_refused(op, inforce, known.difference(own))),
        tuple(dict.fromkeys(_reasons(op.build, set()))),
    )


def _refused(op: Op, inforce: list[Any], attributes: set[str]) -> Iterator[str]:
    yield from (f"attribute {name}" for name in sorted(attributes))
    if not inforce:
        return
    newest = inforce[-1]
    if not op.variadic:
        yield from (f"input {formal.name}" for formal in newest.inputs[len(op.inputs) :])
    yield from (f"output {formal.name}" for formal in newest.outputs[op.outputs + op.extra :])
    types = {
        text
        for schema in inforce
        for constraint in schema.type_constraints
        for text in constraint.allowed_type_strs
    }
    kinds = {_family(text) for text in types if number_of(text) not in op.kinds}
    if kinds:
        yield f"types {', '.join(sorted(kinds))}"


def _family(text: str) -> str:
    """`float8e4m3fn` and its kin by one name."""
    if not text.startswith("tensor("):
        return text.split("(")[0].replace("seq", "sequence")
    name = text[len("tensor(") : -1]
    return next((kin for kin in ("float8", "float4", "complex") if name.startswith(kin)), name)


def _reasons(function: Callable[..., Any], seen: set[str]) -> Iterator[str]:
    """Texts of the refusals in `function` and in what it calls."""
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen or not function.__module__.startswith("mlcompress.train.ops."):
        return
    seen.add(name)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = _template(node.exc.args[0])
            if text is not None and getattr(node.exc.func, "id", "") == "Refusal":
                yield text
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = inspect.unwrap(function).__globals__.get(node.func.id)
            if inspect.isfunction(called):
                yield from _reasons(called, seen)


def _template(text: ast.expr) -> str | None:
    if isinstance(text, ast.Constant):
        return str(text.value)
    if isinstance(text, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in text.values)
    return None


def describe() -> list[dict[str, Any]]:
    """One row an op, in the form of `methods.describe`: `name`, `summary`, `options`."""
    return [{"name": row.name, "summary": _summary(row), "options": []} for row in rows()]


def _summary(row: Row) -> str:
    parts = [f"opsets {_opsets(row)}"]
    if row.attributes:
        parts.append(f"attributes {', '.join(row.attributes)}")
    if row.refused or row.reasons:
        parts.append(f"refused: {_refusals(row)}")
    return "; ".join(parts)


def _opsets(row: Row) -> str:
    return ", ".join(map(str, row.opsets)) or f"after {LAST}"


def _refusals(row: Row) -> str:
    return "; ".join((*row.refused, *row.reasons))


def markdown() -> str:
    """The reference page `docs/ops.md`."""
    lines = [
        "# Ops with a trainable form",
        "",
        "What distillation, recovery after pruning, quantisation-aware training and TorchScript output can",
        "run; printed by `mlcompress list ops --markdown`. Whatever a model has beyond this is refused by",
        "name before anything runs, and stages that need no gradients still work.",
        "",
        f"**Opsets**: the versions of an op's definition that are in force from opset {FIRST} to {LAST}.",
        "Each is honoured, and later ones as far as they add nothing. **Refused**: what a definition has and",
        "the executor does not; `...` stands for what the model has there.",
        "",
        "| op | opsets | attributes | refused |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows():
        lines.append(f"| {row.name} | {_opsets(row)} | {', '.join(row.attributes)} | {_refusals(row)} |")
    return "\n".join(lines) + "\n"
