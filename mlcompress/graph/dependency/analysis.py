"""Which channels of a graph can go, and what goes with them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Importing a module of rules registers them.
from mlcompress.graph.dependency import (
    rules_axes,  # noqa: F401
    rules_conv,  # noqa: F401
    rules_elementwise,  # noqa: F401
    rules_linear,  # noqa: F401
    rules_norm,  # noqa: F401
    rules_reshape,  # noqa: F401
    rules_rnn,  # noqa: F401
    rules_select,  # noqa: F401
)
from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.families import Family, build
from mlcompress.graph.dependency.rules import RULES
from mlcompress.graph.dependency.trace import Frozen, Trace, Use
from mlcompress.graph.operands import key

Dead = Mapping[str, NDArray[np.integer]]
"""Family name -> ids of the units to remove."""


@dataclass(frozen=True)
class Analysis:
    """Result of `analyse`. It fits the model and its copies until channels are removed."""

    families: list[Family]
    """In graph order."""
    frozen: list[Frozen]
    """What keeps channels from being removed: unknown ops, outputs, reductions."""
    axes: dict[str, list[Axis]]
    """Class id of every element of every axis by value name; -1 or None where nothing can go."""
    uses: list[Use]
    classes: int
    """Upper bound of class ids."""

    def left_alone(self) -> list[dict[str, str]]:
        """`name` and `reason` of what keeps its channels, for a card. That outputs do goes without saying."""
        return [
            {"name": item.node, "reason": f"{item.op}: {item.reason}"}
            for item in self.frozen
            if item.op != "output"
        ]

    def dead(self, dead: Dead) -> NDArray[np.bool_]:
        """Mask over class ids. Raises ValueError for a family or unit that does not exist."""
        known = {family.name: family for family in self.families}
        mask = np.zeros(self.classes, dtype=np.bool_)
        for name, units in dead.items():
            if name not in known:
                raise ValueError(f"no family {name!r}")
            chosen = np.asarray(units, dtype=np.int64)
            if chosen.size and (chosen.min() < 0 or chosen.max() >= known[name].units):
                asked = f"{chosen.min()} to {chosen.max()}"
                raise ValueError(f"family {name!r} has {known[name].units} units; asked for {asked}")
            mask[known[name].classes[chosen]] = True
        return mask


def analyse(model: ir.Model, skip: Collection[str] = ()) -> Analysis:
    """Channel dependencies of a cleaned graph (see `graph.load`).

    Axes are followed through the graph as arrays of atoms: each op family's rule says which elements belong
    together; what no rule covers keeps its channels and is listed in `frozen`.
    `skip`: names of nodes whose output channels stay.
    """
    trace = Trace(model)
    for node in model.graph:
        _apply(node, trace, model.graph)
        if node.name in skip:
            for value in node.outputs:
                if value.name in trace.axes:
                    trace.keep(node, trace.of(value), "named in skip")
    for value in model.graph.outputs:
        if value.name in trace.axes or value.is_initializer():
            trace.freeze(trace.of(value), Frozen(value.name or "", "output", "an output of the graph"))
    classes = trace.atoms.solve()
    axes = {name: [classes.of(axis) for axis in found] for name, found in trace.axes.items()}
    return Analysis(
        families=build(trace, classes),
        frozen=trace.frozen(classes),
        axes={name: found for name, found in axes.items() if any(axis is not None for axis in found)},
        uses=trace.uses,
        classes=len(classes.root),
    )


def _apply(node: ir.Node, trace: Trace, graph: ir.Graph) -> None:
    """Run the rule of a node; without one, or without ranks, everything it reads stays."""
    bodies = [attribute for attribute in node.attributes.values() if _is_body(attribute)]
    handler = RULES.get(key(node))
    if handler is None or bodies:
        trace.opaque(node, "no rule for this op")
        _freeze_captured(node, trace, graph)
    elif any(value is not None and trace.rank(value) is None for value in node.inputs):
        trace.opaque(node, "the rank of an input is not known")
    else:
        try:
            handler(node, trace)
        except (IndexError, ValueError):  # onnxruntime loads it, but would not run it
            trace.opaque(node, "its constants do not fit each other: it cannot run")


def _is_body(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _freeze_captured(node: ir.Node, trace: Trace, graph: ir.Graph) -> None:
    """Values of the outer graph that a body (If, Loop, Scan) reads directly."""
    for attribute in node.attributes.values():
        if not _is_body(attribute):
            continue
        bodies = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
        for body in bodies:
            read = [value for inner in body.all_nodes() for value in inner.inputs if value is not None]
            for value in (*read, *body.outputs):
                if value.graph is graph and trace.rank(value) is not None:
                    trace.keep(node, trace.of(value), "read inside its body")
