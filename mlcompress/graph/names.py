"""Names of nodes and values: given where they are missing, and found by the patterns of a recipe."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx
import onnx_ir as ir

from mlcompress.errors import RecipeError
from mlcompress.graph.structure import nodes


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give nodes without a name a free one, made from the op type (`Conv`, `Conv_1`, ...), in file order."""
    bodies = [list(nodes(proto.graph)), *(list(function.node) for function in proto.functions)]
    taken = {node.name for body in bodies for node in body if node.name}
    last: dict[str, int] = {}
    for body in bodies:
        for node in body:
            node.name = node.name or free(node.op_type, taken, last)


def make_unique(model: ir.Model) -> None:
    """Rename values and nodes made while cleaning whose name is missing or taken; inputs and outputs keep
    theirs.

    Earlier ones (in file order) keep their names, so a user's names survive and the result is deterministic.
    """
    kept = [*model.graph.inputs, *model.graph.outputs]
    taken = {str(value.name) for value in kept}
    last: dict[str, int] = {}
    seen: set[ir.Value] = set(kept)
    for value in _values(model):
        if value in seen:
            continue
        seen.add(value)
        if value.name == "" and value.producer() is not None:
            continue  # an optional output that the node leaves out
        if not value.name or value.name in taken:
            value.name = free(value.name or "value", taken, last)
        taken.add(value.name)
    taken, last = set(), {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not node.name or node.name in taken:
            node.name = free(node.name or node.op_type, taken, last)
        taken.add(node.name)


def free(stem: str, taken: set[str], last: dict[str, int] | None = None) -> str:
    """`stem`, `stem_1`, `stem_2`, ...: the first one not taken; taken from now on.

    `last` remembers the number given to a stem, for callers that ask for many names and release none.
    """
    count = last.get(stem, 0) if last else 0
    name = f"{stem}_{count}" if count else stem
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    if last is not None:
        last[stem] = count
    return name


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from list(graph.initializers.values())
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs


@dataclass(frozen=True)
class Matches:
    """Nodes that patterns select, in graph order, and the patterns that select nothing."""

    nodes: tuple[ir.Node, ...]
    unmatched: tuple[str, ...]


def nodes_matching(model: ir.Model, patterns: Sequence[str]) -> Matches:
    """Nodes (sub-graphs included) that a recipe's globs select.

    A pattern is `op:Type`, or a glob on a node's name, on one of its output names or on the name of an
    initializer that it reads. A name that equals the pattern matches too, so names with brackets need no
    escapes.
    """
    used: set[str] = set()
    found = []
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        hits = [pattern for pattern in patterns if _matches(node, pattern)]
        used.update(hits)
        if hits:
            found.append(node)
    return Matches(tuple(found), tuple(pattern for pattern in patterns if pattern not in used))


def skipped_nodes(model: ir.Model, patterns: Sequence[str]) -> set[str]:
    """Names of the nodes that the recipe's `skip` selects.

    Raises RecipeError with one line for each pattern that selects nothing.
    """
    matches = nodes_matching(model, patterns)
    if matches.unmatched:
        raise RecipeError(*(no_match(model, pattern, "skip") for pattern in matches.unmatched))
    return {str(node.name) for node in matches.nodes}


def no_match(model: ir.Model, pattern: str, where: str) -> str:
    """One line for a pattern that selects nothing, with the nearest name of the model."""
    names: dict[str, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for name in (f"op:{node.op_type}", *_names(node)):
            names[name] = None
    close = difflib.get_close_matches(pattern.strip("*"), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "`mlcompress inspect` lists the names"
    return f"{where}: {pattern!r} matches no node; {hint}"


def _matches(node: ir.Node, pattern: str) -> bool:
    if pattern.startswith("op:"):
        return fnmatchcase(node.op_type, pattern[3:])
    return any(name == pattern or fnmatchcase(name, pattern) for name in _names(node))


def _names(node: ir.Node) -> Iterator[str]:
    yield node.name or ""
    yield from (value.name for value in node.outputs if value.name)
    yield from (
        value.name for value in node.inputs if value is not None and value.is_initializer() and value.name
    )
