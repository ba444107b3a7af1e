"""What criteria are measured with: samples, labels, the original, and what training has moved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress.context import Context
from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.prune.criteria import needs
from mlcompress.prune.recipe import PruneRecipe

Gradient = dict[str, np.ndarray]


@dataclass
class Material:
    """Of one run. `facts` says in the card what the scores were measured on."""

    original: ir.Model
    recipe: PruneRecipe
    context: Context
    movements: dict[str, np.ndarray] = field(default_factory=dict)
    """Initializer name -> -sum w dL/dw of the training before the next cut."""
    facts: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise DataError where the criterion is measured on samples and there are none."""
        if self.recipe.prune.measured_on():
            self._some()

    def observed(self) -> Dataset:
        """Samples for activations: `data.calibration`, else `data.train`, as many as the criterion says."""
        return self._some()

    def pass_gradients(
        self, model: ir.Model, names: Sequence[str], use: Callable[[Gradient], None]
    ) -> set[str]:
        """Call `use` with dL/dw of each batch, or sample where squares of single samples are wanted; gives
        the names among `names` that have gradients.

        Raises UnsupportedError when the graph cannot be trained, or none of the weights.
        """
        from mlcompress.train.device import reproducible
        from mlcompress.train.executor import Executor, unsupported
        from mlcompress.train.gradients import gradients, sample_loss

        criterion = self.recipe.prune.criterion.name
        if lines := unsupported(model):
            raise UnsupportedError(
                *(f"prune.criterion {criterion}: {line}; use l2, which needs no gradients" for line in lines)
            )
        data = self._some()
        executor = Executor(model, purpose="prune")
        wanted = [name for name in names if name in executor.trainable]
        if not wanted:
            raise UnsupportedError(
                f"prune.criterion {criterion}: no weight has a gradient; prune the float model"
            )
        loss = sample_loss(model, self.original, data, self.recipe.evaluate, self.recipe.seed)
        self.facts["loss"] = loss.told
        single = "squared_gradients" in needs(criterion)
        with reproducible(self.recipe.train.threads):
            for found in gradients(executor, loss, data, wanted, single=single):
                use(found)
        return set(wanted)

    def _some(self) -> Dataset:
        sources = self.recipe.prune.measured_on()
        for name in sources:
            data: Dataset | None = getattr(self.context, name)
            if data is not None and len(data):
                count = min(self.recipe.prune.criterion.options()["samples"], len(data))
                self.facts |= {"data": data.name, "samples": count}
                return data.subset(np.arange(count))
        best, other = sources
        raise DataError(
            f"prune.criterion {self.recipe.prune.criterion.name}: is measured on samples; add"
            f" `data: {{{best}: {{path: FILE.npz}}}}`, or `data.{other}`"
        )
