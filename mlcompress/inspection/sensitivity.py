"""`mlcompress inspect --sensitivity`: what each layer costs as integers, on the data of a quantize recipe."""

from math import isfinite
from pathlib import Path
from typing import Any

from mlcompress import checkpoint, prepare
from mlcompress.errors import RecipeError, UsageError
from mlcompress.job import Job
from mlcompress.metrics import LABELLED
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.recipe.load import load as load_recipe


class SensitivityRecipe(QuantizeRecipe):
    """A recipe of quantize, of which other samples are opened than a run would."""

    def needs(self) -> dict[str, bool]:
        """Calibration samples always; validation samples where the recipe has them."""
        needed = {"calibration": False}
        if self.data.validation is not None:
            needed["validation"] = self.evaluate.metric in LABELLED
        return needed


def sensitivity_facts(path: Path, recipe: str | None, *, no_code: bool = False) -> list[dict[str, Any]]:
    """Rows of `quantize.sensitivity`, the most costly layer first; a ratio without noise is None.

    The metric is that of `data.validation`, else of `data.evaluate`: nothing is chosen here, so nothing is
    flattered.

    Raises:
        UsageError: no recipe. RecipeError: it is wrong, or its mode has no calibrated integers.
        UnsupportedError: the model is quantised already. DataError: samples are missing or do not fit.
    """
    if recipe is None:
        raise UsageError("--sensitivity: is measured on the data of a recipe of quantize; add -r RECIPE")
    given = load_recipe(recipe, SensitivityRecipe)
    mode = given.quantize.mode
    if mode not in ("static", "qat"):
        raise RecipeError(
            f"{recipe}: quantize.mode {mode}: --sensitivity is of layers that run as calibrated integers; "
            "use a recipe of `mode: static`"
        )
    if given.quantize.activations.scheme == "float":
        raise RecipeError(
            f"{recipe}: quantize.activations float: --sensitivity is of layers that run as integers; "
            "leave it out"
        )
    if given.data.calibration is None:
        raise RecipeError(
            f"{recipe}: data.calibration: --sensitivity is measured on samples; "
            "add `data: {calibration: {path: FILE.npz}}`"
        )
    job = Job("quantize", path, path.with_suffix(".sensitivity.onnx"), recipe, no_code=no_code)
    prepare.check(job, given)
    model = checkpoint.load(path, given.model, no_code=no_code)
    from mlcompress.quantize.refuse import refuse_quantised
    from mlcompress.quantize.sensitivity import sensitivity

    refuse_quantised(model)
    context = prepare.context(job, given, model)
    if context.validation is None:
        context.validation = context.evaluation
    rows = sensitivity(model, given, context)
    return [{**row, "snr_db": row["snr_db"] if isfinite(row["snr_db"]) else None} for row in rows]
