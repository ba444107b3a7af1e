"""The two kinds of file that a command can write, told by the output's name.

onnxruntime does not run TorchScript. A .ts file therefore has an ONNX twin while it is made: the same model,
which is verified, measured and held against the limits in its place. The .ts file is run beside it before it
is published, its size is its own, and no limit on latency is applied to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.draft import Draft
from mlcompress.errors import RecipeError
from mlcompress.graph.session import ORT_ERRORS, session
from mlcompress.measure.comparison import Facts
from mlcompress.measure.examples import examples
from mlcompress.recipe.sections import Shared

if TYPE_CHECKING:
    import onnx_ir as ir

TWIN = "onnx twin"
"""What `of` says of a figure that was not measured on the artifact itself."""


class Onnx:
    """The graph as it is; large weights in a .data file beside it."""

    format = "onnx"
    is_timed = True

    def refuse(self, recipe: Shared, model: "ir.Model") -> None:
        """Raises UserError for what cannot be written or promised, before any work is done."""

    def twin(self, draft: Draft) -> Path:
        """The ONNX file that is verified and measured."""
        return draft.model

    def write(self, result: "ir.Model", draft: Draft, recipe: Shared, context: Context) -> None:
        """Write `draft.model` where the twin is another file, and check it against the twin."""

    def keep_rejected(self, result: "ir.Model", draft: Draft) -> Path:
        """Put the artifact under its rejected name; external data is referred to by the file's own."""
        graph.save(result, draft.rejected_model)
        return draft.rejected_model

    def labelled(self, facts: Facts) -> Facts:
        """`facts` with a mark on figures that are the twin's."""
        return facts


class TorchScript(Onnx):
    """A trace that torch alone runs."""

    format = "torchscript"
    is_timed = False

    def refuse(self, recipe: Shared, model: "ir.Model") -> None:
        limits = {name: getattr(recipe.gate, name) for name in ("min_speedup", "max_latency_ms")}
        timed = [name for name, limit in limits.items() if limit is not None]
        if timed:
            tail = "onnxruntime does not run TorchScript; name the output .onnx, or leave the limit out"
            raise RecipeError(*(f"gate.{name}: not for a .ts output: {tail}" for name in timed))
        from mlcompress.train import torchscript

        torchscript.refuse(model)

    def twin(self, draft: Draft) -> Path:
        return draft.folder / "twin.onnx"

    def write(self, result: "ir.Model", draft: Draft, recipe: Shared, context: Context) -> None:
        from mlcompress.train import torchscript

        stock = session(self.twin(draft))

        def runs(feed: Mapping[str, Any]) -> bool:
            try:
                stock.run(None, dict(feed))
            except ORT_ERRORS:
                return False
            return True

        usual = {name: array.shape for name, array in (context.feed or {}).items()}
        samples = context.evaluation or context.calibration or context.train
        feeds = examples(graph.signature(result), usual, recipe.measure.shapes, samples, runs)
        torchscript.write(result, draft.model, self.twin(draft), feeds)

    def keep_rejected(self, result: "ir.Model", draft: Draft) -> Path:
        return draft.model.rename(draft.rejected_model)

    def labelled(self, facts: Facts) -> Facts:
        return replace(
            facts,
            latency=[{**row, "of": TWIN} for row in facts.latency],
            memory={**facts.memory, "after": {**facts.memory["after"], "of": TWIN}},
            metric=None if facts.metric is None else {**facts.metric, "of": TWIN},
        )


def kind(output: Path) -> Onnx:
    """What is to be written, by the suffix of `output`."""
    return TorchScript() if output.suffix == ".ts" else Onnx()
