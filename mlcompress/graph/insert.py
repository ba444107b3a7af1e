"""Adds nodes and initializers to a graph under names that are free, in an order that stays topological."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir


class Insertion:
    """Names and places for what is added to one graph. Node order in the file is kept topological."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._first = next(iter(graph), None)
        self._taken = {value.name for value in graph.inputs} | set(graph.initializers)
        for node in graph.all_nodes():
            self._taken |= {node.name} | {value.name for value in node.outputs}
            for inner in node.attributes.values():
                if inner.type == ir.AttributeType.GRAPH:
                    self._taken |= {value.name for value in inner.as_graph().inputs}
                    self._taken |= set(inner.as_graph().initializers)

    def fresh(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`... where it is taken; taken from now on."""
        free, count = name, 0
        while free in self._taken:
            count += 1
            free = f"{name}_{count}"
        self._taken.add(free)
        return free

    def release(self, name: str) -> None:
        """Make the name of a removed value free again."""
        self._taken.discard(name)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer that holds `array` (scalars stay scalars)."""
        free = self.fresh(name)
        tensor = ir.tensor(array, name=free)
        value = ir.Value(
            name=free, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
        )
        self.graph.register_initializer(value)
        return value

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
    ) -> ir.Node:
        """A node named `<stem>_<op>` (stem: the output's name by default) that is not yet placed in the
        graph."""
        kind = None if dtype is None else ir.TensorType(dtype)
        made = [ir.Value(name=self.fresh(output), shape=shape, type=kind)]
        made += [ir.Value(name=self.fresh(f"{output}_{index}")) for index in range(1, outputs)]
        name = self.fresh(f"{stem or output}_{op}")
        return ir.Node(
            "", op, inputs, ir.convenience.convert_attributes(attributes or {}), outputs=made, name=name
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
