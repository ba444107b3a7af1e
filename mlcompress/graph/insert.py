"""Adds nodes and initializers to a graph under names that are free, in an order that stays topological."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import initializer, set_numbers
from mlcompress.graph.names import free


class Insertion:
    """Names and places for what is added to one graph. Node order in the file is kept topological."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._first = next(iter(graph), None)
        self._taken = {str(value.name) for value in graph.inputs} | set(graph.initializers)
        for node in graph.all_nodes():
            self._taken |= {str(node.name)} | {str(value.name) for value in node.outputs}
            for inner in node.attributes.values():
                if inner.type == ir.AttributeType.GRAPH:
                    self._taken |= {str(value.name) for value in inner.as_graph().inputs}
                    self._taken |= set(inner.as_graph().initializers)

    def fresh(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`... where it is taken; taken from now on."""
        return free(name, self._taken)

    def is_taken(self, start: str) -> bool:
        """Does any name begin so?"""
        return any(name.startswith(start) for name in self._taken)

    def release(self, name: str) -> None:
        """Make the name of a removed value free again."""
        self._taken.discard(name)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer that holds `array` (scalars stay scalars)."""
        return initializer(self.graph, self.fresh(name), array)

    def set_input(self, node: ir.Node, index: int, array: np.ndarray, name: str) -> None:
        """Give an input of the node new numbers: in place where nobody else reads them, else as a new
        initializer called `name`."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
            set_numbers(old, array)
            return
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self.constant(name, array))

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        dtype: ir.DataType | None,
        *,
        stem: str = "",
        shape: ir.Shape | None = None,
        attributes: Mapping[str, int | float] | None = None,
        outputs: int = 1,
        domain: str = "",
    ) -> ir.Node:
        """A node named `<stem>_<op>` (stem: the output's name by default) that is not yet placed in the
        graph."""
        kind = None if dtype is None else ir.TensorType(dtype)
        made = [ir.Value(name=self.fresh(output), shape=shape, type=kind)]
        made += [ir.Value(name=self.fresh(f"{output}_{index}")) for index in range(1, outputs)]
        name = self.fresh(f"{stem or output}_{op}")
        return ir.Node(
            domain, op, inputs, ir.convenience.convert_attributes(attributes or {}), outputs=made, name=name
        )

    def at_start(self, nodes: Sequence[ir.Node]) -> None:
        """Place nodes that read only initializers and graph inputs before everything that was there."""
        if self._first is None:
            self.graph.extend(nodes)
        else:
            self.graph.insert_before(self._first, nodes)

    def after(self, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Place nodes right after the one that makes `value` (at the start for graph inputs)."""
        producer = value.producer()
        if producer is None:
            self.at_start(nodes)
        else:
            self.graph.insert_after(producer, nodes)

    def replace(self, node: ir.Node, chain: Sequence[ir.Node], result: ir.Value) -> None:
        """Put `chain` in the place of a node with one output; `result` takes over its name, type and
        readers."""
        output = node.outputs[0]
        name, result.shape, result.type = str(output.name), output.shape, output.type
        self.graph.insert_before(node, chain)
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        if node is self._first:
            self._first = chain[0]
        self.graph.remove(node, safe=True)
        self.release(str(result.name))
        result.name = name

    def drop_unread(self) -> None:
        """Remove initializers that nothing reads."""
        for value in list(self.graph.initializers.values()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self.graph.initializers[str(value.name)]
                self.release(str(value.name))
