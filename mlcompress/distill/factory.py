"""`distill.student.factory`: the user's own function makes the student."""

from pathlib import Path

import onnx_ir as ir

from mlcompress import checkpoint, graph
from mlcompress.distill.recipe import StudentSection
from mlcompress.recipe.sections import ModelInput, ModelSection

WHERE = "distill.student.factory"


def build_student(section: StudentSection, teacher: ir.Model) -> ir.Model:
    """The graph of the factory's module: it takes the teacher's inputs in their order, and what it returns
    gets the names of the teacher's outputs.

    Raises:
        UserError: the function fails or returns no module, weights that do not fit, an export that fails.
    """
    signature = graph.signature(teacher)
    inputs = {
        tensor.name: ModelInput.model_validate({"shape": _shape(tensor), "dtype": tensor.dtype.name})
        for tensor in signature.inputs
    }
    spec = ModelSection(
        factory=section.factory,
        kwargs=section.kwargs,
        inputs=inputs,
        outputs=[tensor.name for tensor in signature.outputs],
    )
    weights = None if section.checkpoint is None else Path(section.checkpoint)
    return checkpoint.build(spec, weights, WHERE)


def code_forbidden(section: StudentSection) -> str:
    """What to say where nobody's code may run."""
    return f"{WHERE}: {section.factory!r} is code, and --no-code forbids running it; name a `file`"


def _shape(tensor: graph.Tensor) -> list[int | str]:
    """Lengths, and words for free axes; equal words stay equal."""
    return [
        size if isinstance(size, int) else size if size and size.isidentifier() else f"{tensor.name}_{axis}"
        for axis, size in enumerate(tensor.shape or ())
    ]
