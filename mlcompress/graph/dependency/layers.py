"""The repeated layers of a deep net, which can go as wholes: what reads the end of one then reads its
beginning.

Where `blocks` finds one branch of a residual sum, a layer is what repeats: of a transformer attention and
feed-forward together with their norms, of a ResNet a block with its activation.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from mlcompress.graph.lengths import declared
from mlcompress.graph.unused import remove_unused

_SUMS = ("Add", "Sum")
_COUNTS_ONLY = ("Shape", "Size")
"""Read no number of a value, so they are no path of the data."""


@dataclass(frozen=True)
class Layer:
    """A piece of the graph between two values of one shape. Named, so that it fits copies of the model."""

    name: str
    """Of the tensor at its end."""
    entry: str
    """Tensor at its beginning."""


@dataclass(frozen=True)
class _Step:
    """From one value that all data pass to the next."""

    entry: ir.Value
    exit: ir.Value
    nodes: tuple[ir.Node, ...]
    """Between the two, with the one that makes `exit`."""
    is_residual: bool
    """x + f(x), and f has a weight matrix."""

    @property
    def kind(self) -> tuple[bool, list[str]]:
        """Equal for repetitions of one layer."""
        return self.is_residual, sorted(node.op_type for node in self.nodes)


def layers(model: ir.Model) -> list[Layer]:
    """Layers of the main graph, in its order.

    A value that every path from x to the outputs passes is a post-dominator of x (Lengauer and Tarjan 1979).
    Steps from x to the next of them that keep the shape as far as it is declared, and are x + f(x) with a
    weight matrix in f or have no matrix at all (norms, activations), form a run; its shortest period is the
    layer. Without a period each x + f(x) is one, with the norm or activation behind it where x comes out of
    one like it. Layers inside f are not looked for.
    """
    after = _post_dominators(model.graph)
    found: list[Layer] = []
    seen: set[ir.Node] = set()
    for node in model.graph:
        run, end = [], node
        while end not in seen and (step := _step(end, after)) is not None:
            run.append(step)
            seen.add(end)
            end = step.nodes[-1]
            seen.update(step.nodes[:-1] if step.is_residual else ())
        found += _periods(run)
    return found


def drop(model: ir.Model, dead: Collection[Layer]) -> None:
    """Remove these layers in place, and what nobody needs any more.

    Raises ValueError for a layer that the model does not have.
    """
    made = {str(value.name): value for node in model.graph for value in node.outputs}
    missing = [layer.name for layer in dead if not {layer.name, layer.entry} <= made.keys()]
    if missing:
        raise ValueError(f"no layer {missing[0]!r}")
    order = {name: place for place, name in enumerate(made)}
    for layer in sorted(dead, key=lambda layer: -order[layer.name]):
        entry, out = made[layer.entry], made[layer.name]
        node = out.producer()
        if out.is_graph_output() and node is not None:  # keeps its name
            same = ir.node("Identity", [entry], name=node.name)
            model.graph.insert_after(node, same)
            out.replace_all_uses_with(same.outputs[0], replace_graph_outputs=True)
            same.outputs[0].name, out.name = out.name, f"{out.name}_dropped"
            same.outputs[0].type, same.outputs[0].shape = out.type, out.shape
        else:
            out.replace_all_uses_with(entry)
    remove_unused(model)


def _post_dominators(graph: ir.Graph) -> dict[ir.Node, ir.Node | None]:
    """Node -> the next node that all its paths to the outputs pass; None: only their end is common."""
    after: dict[ir.Node, ir.Node | None] = {}
    depth: dict[ir.Node | None, int] = {None: 0}
    own = set(graph)
    for node in reversed(graph):
        readers: list[ir.Node | None] = []
        for value in node.outputs:
            readers += [None] if value.is_graph_output() else []
            for reader, _ in value.uses():
                if reader not in own:  # inside the body of an If or Loop
                    readers.append(None)
                elif reader in after and reader.op_type not in _COUNTS_ONLY:
                    readers.append(reader)
        if not readers:
            continue  # nothing needs it
        meeting: ir.Node | None = readers[0]
        for other in readers[1:]:
            meeting = _common(meeting, other, after, depth)
        after[node], depth[node] = meeting, depth[meeting] + 1
    return after


def _common(
    one: ir.Node | None,
    other: ir.Node | None,
    after: dict[ir.Node, ir.Node | None],
    depth: dict[ir.Node | None, int],
) -> ir.Node | None:
    while one is not other:
        if depth[one] < depth[other]:
            one, other = other, one
        one = None if one is None else after[one]
    return one


def _step(node: ir.Node, after: dict[ir.Node, ir.Node | None]) -> _Step | None:
    """From the output of `node` to the next value that all data pass, where it may belong to a layer."""
    end = after.get(node)
    if end is None or len(node.outputs) != 1 or len(end.outputs) != 1:
        return None
    entry, out = node.outputs[0], end.outputs[0]
    if not _agree(entry, out):
        return None
    between = [*_between(node, end), end]
    has_matrix = any(_is_matrix(value) for one in between for value in one.inputs)
    is_residual = has_matrix and end.op_type in _SUMS and len(end.inputs) == 2 and entry in end.inputs
    if has_matrix and not is_residual:
        return None
    return _Step(entry, out, tuple(between), is_residual)


def _between(start: ir.Node, end: ir.Node) -> list[ir.Node]:
    """Nodes on the paths from `start` to `end`, without the two."""
    found: dict[ir.Node, None] = {}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        for value in node.outputs:
            for reader, _ in value.uses():
                if reader is not end and reader not in found and reader.op_type not in _COUNTS_ONLY:
                    found[reader] = None
                    waiting.append(reader)
    return list(found)


def _agree(entry: ir.Value, out: ir.Value) -> bool:
    """One rank and dtype, and one length wherever both are numbers."""
    one, other = declared(entry), declared(out)
    if one is None or other is None or len(one) != len(other) or entry.dtype != out.dtype:
        return False
    return all(a == b for a, b in zip(one, other, strict=True) if isinstance(a, int) and isinstance(b, int))


def _is_matrix(value: ir.Value | None) -> bool:
    if value is None or value.const_value is None:
        return False
    return sum(size > 1 for size in value.const_value.shape.numpy()) > 1


def _periods(run: Sequence[_Step]) -> list[Layer]:
    """The layers of a run: its shortest period that leaves no x + f(x) over."""
    first = next((place for place, step in enumerate(run) if step.is_residual), len(run))
    steps = run[first:]
    kinds = [step.kind for step in steps]
    for period in range(1, len(steps) // 2 + 1):
        whole = 1
        while kinds[whole * period : (whole + 1) * period] == kinds[:period]:
            whole += 1
        if whole > 1 and not any(step.is_residual for step in steps[whole * period :]):
            return [_layer(steps[k * period], steps[(k + 1) * period - 1]) for k in range(whole)]
    return [
        _layer(step, _closing(step, steps[place + 1 :]))
        for place, step in enumerate(steps)
        if step.is_residual
    ]


def _closing(residual: _Step, behind: Sequence[_Step]) -> _Step:
    """The step that ends a layer which is not repeated: the norm or activation behind the sum where one like
    it made what the layer reads, else the sum itself."""
    start = residual.entry.producer()
    for step in behind:
        if step.is_residual:
            break
        if start is not None and step.nodes[-1].op_type == start.op_type:
            return step
    return residual


def _layer(first: _Step, last: _Step) -> Layer:
    return Layer(name=str(last.exit.name), entry=str(first.entry.name))
