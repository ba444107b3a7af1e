"""`model.factory`: the user's own function makes the module that a checkpoint fills."""

import random

import numpy as np
import torch

from mlcompress import callables
from mlcompress.errors import RecipeError
from mlcompress.recipe.sections import ModelSection


def build(spec: ModelSection, where: str = "model.factory") -> torch.nn.Module:
    """The module that the factory returns for its `kwargs`, on the CPU, made from one seed.

    `where`: the recipe key that names it.

    Raises RecipeError when the factory cannot be found, raises, or returns something else.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    made = callables.call(str(spec.factory), spec.kwargs, where, RecipeError)
    if not isinstance(made, torch.nn.Module):
        raise RecipeError(f"{where}: {spec.factory} returned {type(made).__name__}; return a torch.nn.Module")
    return made.cpu()
