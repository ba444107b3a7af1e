"""Dead code."""

import onnx_ir as ir
import onnx_ir.passes.common as passes


def remove_unused(model: ir.Model) -> None:
    """Remove nodes, optional outputs and initializers that nothing needs, in place.

    Inputs stay, also those that nothing reads: they are part of the signature.
    """
    _forget_dead_readers(model)
    passes.RemoveUnusedNodesPass()(model)
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]


def _forget_dead_readers(model: ir.Model) -> None:
    """Nodes of a dropped branch (an If with a constant condition) still count as readers of outer values."""
    alive = set(ir.traversal.RecursiveGraphIterator(model.graph))
    values = [value for node in alive for value in node.outputs]
    for graph in model.graphs():
        values += [*graph.inputs, *graph.initializers.values()]
    for value in values:
        for node, index in list(value.uses()):
            if node not in alive:
                node.replace_input_with(index, None)
