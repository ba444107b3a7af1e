"""A torch module as an ONNX graph that is known to compute the same."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
import torch

from mlcompress import graph
from mlcompress.checkpoint.compare import compare
from mlcompress.checkpoint.forward import Input, call, examples, first_line, workable
from mlcompress.checkpoint.naming import restore_names
from mlcompress.errors import ModelError, RecipeError, UserError, shorten
from mlcompress.graph.names import make_unique
from mlcompress.recipe.sections import ModelSection

__all__ = ["Input", "compare", "inputs_of", "is_frozen", "to_graph", "to_named_graph"]

_OPSETS = (18, 20)
"""The second is tried where an operator cannot be written in the first."""
_CHATTY = (
    "torch.onnx",
    "torch.export",
    "torch.fx",
    "torch._dynamo",
    "torch._export",
    "onnxscript",
    "onnx_ir",
)
"""Loggers that would print on stderr what the exception, or nobody, needs to say."""
EXAMPLE = "model: {inputs: {image: {shape: [batch, 3, 224, 224]}}}"


def inputs_of(spec: ModelSection, where: str) -> list[Input]:
    """What the recipe's `model.inputs` says that a module takes.

    Raises RecipeError with one line for each name or shape that is missing or cannot be used.
    """
    if not spec.inputs:
        raise RecipeError(
            f"{where}: model.inputs: does not say what the model takes; add `{EXAMPLE}` to the recipe"
        )
    lines = []
    for name, given in spec.inputs.items():
        here = f"{where}: model.inputs.{name}"
        if given.shape is None:
            lines.append(f"{here}: has no shape; write `{{shape: [batch, ...]}}`, a word for a free axis")
        elif odd := [size for size in given.shape if isinstance(size, str) and not size.isidentifier()]:
            lines.append(
                f"{here}: the axis {odd[0]!r} is neither a length nor a word; write one such as `batch`"
            )
    names = [*spec.inputs, *spec.outputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        lines.append(
            f"{where}: model.outputs: {shorten(twice)} is given twice; each input and output needs a name"
        )
    if not all(name and name.isprintable() for name in names):
        lines.append(f"{where}: model: a name of an input or output is empty or not printable; change it")
    if lines:
        raise RecipeError(*lines)
    return [
        Input(name, tuple(given.shape or ()), getattr(torch, given.dtype))
        for name, given in spec.inputs.items()
    ]


def to_graph(
    module: torch.nn.Module, inputs: Sequence[Input], outputs: Sequence[str], where: str
) -> ir.Model:
    """The cleaned graph of `module` in eval mode; its tensors are named as in `module.state_dict()`.

    A word in a shape becomes an axis of any length. BatchNormalization is kept, its statistics are untouched.
    Outputs are all tensors that `forward` returns, in order, under the names of `outputs`, or else `output`,
    `output_1`, ... The graph is compared with the module (see `compare`).

    Args:
        where: how errors call the module: the user's file or factory.

    Raises:
        ModelError: torch cannot export the module, or the graph works at one length of a free axis only, or
            it computes something else.
    """
    module = module.eval()
    lengths = workable(module, inputs, where)
    given = examples(inputs, lengths)
    with torch.no_grad():
        returned = call(module, inputs, given)
    names = _output_names(outputs, len(returned), where)
    axes = {word: torch.export.Dim(word) for one in inputs for word in one.shape if isinstance(word, str)}
    dynamic = tuple(
        {axis: axes[word] for axis, word in enumerate(one.shape) if isinstance(word, str)} for one in inputs
    )
    with _flat_forward(module, inputs):
        exported = convert(module, tuple(given), {"tensors": dynamic}, where)
    _check_axes(exported, inputs, where)
    model = to_named_graph(exported, inputs, names, where)
    _mend_output_shapes(model, module, inputs, where)
    restore_names(model, module.state_dict())
    compare(model, module, inputs, where)
    return model


def convert(
    module: "torch.nn.Module | torch.export.ExportedProgram",
    given: tuple[torch.Tensor, ...],
    dynamic: dict[str, Any] | None,
    where: str,
) -> ir.Model:
    """What torch's exporter makes of a module or program, unoptimised: BatchNormalization and names are kept.

    Raises ModelError with the first line of what torch said.
    """
    problem: Exception | None = None
    for opset in _OPSETS:
        try:
            with _silent(), torch.no_grad():
                made = torch.onnx.export(
                    module,
                    given,
                    dynamo=True,
                    optimize=False,
                    opset_version=opset,
                    dynamic_shapes=dynamic,
                    verbose=False,
                )
        except Exception as error:  # torch and the module's own code raise all kinds
            problem = problem or error
            continue
        if made is not None:
            exported: ir.Model = made.model
            return exported
    raise ModelError(
        f"{where}: torch cannot export this module: {first_line(_root(problem))}; "
        "change its forward, or export it to ONNX yourself"
    )


def to_named_graph(
    exported: ir.Model, inputs: Sequence[Input], outputs: Sequence[str], where: str
) -> ir.Model:
    """The cleaned graph of an exported model under the recipe's names; inner names that clash give way.

    Raises ModelError where stock onnxruntime refuses the graph.
    """
    inner = exported.graph
    for i, value in enumerate(inner.outputs):
        if value.producer() is None or value in inner.outputs[:i]:  # an output needs a name of its own
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            inner.append(node)
            inner.outputs[i] = node.outputs[0]
    for value, one in zip(inner.inputs, inputs, strict=True):
        value.name, value.shape = one.name, ir.Shape(one.shape)
    for value, name in zip(inner.outputs, outputs, strict=True):
        value.name = name
    make_unique(exported)
    with TemporaryDirectory(prefix="mlcompress-export-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            graph.save(exported, path)
            return graph.load(path)
        except UserError as problem:
            told = (line.removeprefix(f"{path}: ") for line in problem.lines)
            raise ModelError(*(f"{where}: the exported graph: {line}" for line in told)) from None


def _output_names(wanted: Sequence[str], count: int, where: str) -> list[str]:
    if not wanted:
        return ["output", *(f"output_{k}" for k in range(1, count))]
    if len(wanted) != count:
        raise ModelError(
            f"{where}: model.outputs: names {len(wanted)} tensors, the module returns {count}; name each"
        )
    return list(wanted)


@contextmanager
def _flat_forward(module: torch.nn.Module, inputs: Sequence[Input]) -> Iterator[None]:
    """`module(*tensors)` gives its flat list of tensors meanwhile; a wrapper would rename every parameter."""
    own = module.__dict__.get("forward")
    original = module.forward

    def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(call(module, inputs, tensors, original))

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _check_axes(exported: ir.Model, inputs: Sequence[Input], where: str) -> None:
    """Torch makes a free axis static, without a word, where the module holds on to the example's length."""
    for value, one in zip(exported.graph.inputs, inputs, strict=True):
        for word, size in zip(one.shape, value.shape or (), strict=True):
            if isinstance(word, str) and isinstance(size, int):
                raise ModelError(is_frozen(where, word, one.name, size))


def _mend_output_shapes(
    model: ir.Model, module: torch.nn.Module, inputs: Sequence[Input], where: str
) -> None:
    """Declare axes of outputs as they are at two sets of lengths: torch leaves some as in the example."""
    first = workable(module, inputs, where)
    second = workable(module, inputs, where, batch=3, unlike=first)
    with torch.no_grad():
        here, there = (call(module, inputs, examples(inputs, lengths)) for lengths in (first, second))
    for value, a, b in zip(model.graph.outputs, here, there, strict=True):
        declared = list(value.shape) if value.shape is not None else []
        for axis, (one, other) in enumerate(zip(a.shape, b.shape, strict=True)):
            if one != other and len(declared) == a.ndim:
                words = (word for word in first if (first[word], second[word]) == (one, other))
                unknown = ir.SymbolicDim(None) if isinstance(declared[axis], int) else declared[axis]
                declared[axis] = next(map(ir.SymbolicDim, words), unknown)
        value.shape = ir.Shape(declared) if declared else value.shape


def is_frozen(where: str, word: str, name: str, size: int) -> str:
    """The line for a free axis that an export froze."""
    return (
        f"{where}: the axis {word!r} of {name} is free in the recipe, but the export works at {size} only; "
        "take lengths from the tensors in forward, or write the number in model.inputs"
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing of the exporter on the terminal; what the user's own code says is seen when it is compared."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    nowhere = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _root(error: BaseException | None) -> BaseException | None:
    """The first cause of a chain of exceptions."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return error
