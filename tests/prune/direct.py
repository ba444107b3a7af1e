"""The prune stage on the small task without a pipeline around it: nothing is timed, nothing written."""

from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.prune.recipe import PruneRecipe
from mlcompress.prune.run import run
from tests import task


def samples(count: int = 96, *, labels: bool = True, seed: int = 2) -> Dataset:
    image, y = task.samples(count, seed)
    return from_arrays({"image": image}, y if labels else None, name="data.train")


def model() -> ir.Model:
    made = ir.from_proto(task.solved())
    graph.clean(made)
    return made


def recipe(epochs: int = 2, **prune: Any) -> PruneRecipe:
    train = {"epochs": epochs, "batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.01}}
    return PruneRecipe.model_validate(
        {
            "prune": prune,
            "train": train,
            "data": {"train": {"path": "train.npz", "label": "y"}},
        }
    )


def prune(data: Dataset | None = None, **section: Any) -> tuple[dict[str, np.ndarray], Change]:
    """Weights by name, and what the card says."""
    given = samples() if data is None else data
    pruned, change = run(model(), recipe(**section), Context(seed=0, train=given))
    return weights(pruned), change


def weights(made: ir.Model) -> dict[str, np.ndarray]:
    return {
        str(value.name): value.const_value.numpy()
        for value in made.graph.initializers.values()
        if value.const_value is not None
    }
