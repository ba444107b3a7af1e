"""Which value of a graph holds class logits."""

from collections.abc import Iterator

import onnx_ir as ir

from mlcompress.errors import RecipeError, UnsupportedError, shorten

_TRANSPARENT = {"Identity", "Cast"}
_PROBABILITIES = {"Sigmoid", "HardSigmoid"}


def find_output(model: ir.Model, name: str | None, where: str) -> ir.Value:
    """The graph output called `name`, or the first.

    Raises:
        RecipeError: there is no such output.
    """
    outputs = model.graph.outputs
    if name is None:
        return outputs[0]
    for output in outputs:
        if output.name == name:
            return output
    listed = shorten(str(output.name) for output in outputs)
    raise RecipeError(f"{where}: the model has no output {name!r}; it has {listed}")


def has_logits(output: ir.Value) -> bool:
    """Whether `output` looks like scores of classes: [batch, classes], at least two, and no sigmoid."""
    shape = output.shape
    if shape is None or len(shape) != 2 or shape[1] == 1:
        return False
    return not any(node.op_type in _PROBABILITIES for node in _makers(output))


def logits_value(output: ir.Value, where: str) -> str:
    """Name of the value that holds the logits of `output`: what enters its Softmax, or `output` itself.

    A LogSoftmax output is itself a set of logits: softmax(log_softmax(x)) = softmax(x).

    Raises:
        UnsupportedError: `output` is a sigmoid, which is no distribution over classes.
    """
    for node in _makers(output):
        entering = node.inputs[0]
        if node.op_type == "Softmax" and entering is not None:
            return str(entering.name)
        if node.op_type in _PROBABILITIES:
            raise UnsupportedError(
                f"{where}: output {output.name!r} is a {node.op_type}, not class logits;"
                " use the losses `mse` or `cosine`"
            )
    return str(output.name)


def _makers(output: ir.Value) -> Iterator[ir.Node]:
    """The node that makes `output`, and those before it as long as they only pass a value on."""
    value: ir.Value | None = output
    while (
        value is not None
        and (node := value.producer()) is not None
        and node.domain in ("", "ai.onnx")
        and node.inputs
    ):
        yield node
        value = node.inputs[0] if node.op_type in _TRANSPARENT else None
