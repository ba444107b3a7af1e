"""Which layers cost most, and on whose samples that is decided."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import DataError
from mlcompress.quantize.judge import SAME_SAMPLES
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from mlcompress.quantize.sensitivity import sensitivity
from tests import task
from tests.quantize import nets


def recipe(**keys: Any) -> QuantizeRecipe:
    return QuantizeRecipe.model_validate({"quantize": {"placement": "all", **keys}})


def spoilt(seed: int = 0) -> ir.Model:
    """`body` has one large weight in every filter, so that 8 bits leave little of the others."""
    model = nets.residual(seed)
    weight = nets.array(model, "body_weight").copy()
    weight[:, 0, 1, 1] = 30
    model.graph.initializers["body_weight"].const_value = ir.tensor(weight)
    return model


def test_the_layer_that_costs_most_comes_first() -> None:
    rows = sensitivity(spoilt(), recipe(), Context(0, calibration=nets.pictures(16)))
    assert rows[0]["node"] == "body"
    assert {row["node"] for row in rows} == {"stem", "body", "deep", "fc"}
    assert rows[0]["op"] == "Conv"
    assert rows[0]["snr_db"] < rows[1]["snr_db"] - 3
    assert all(row["drop"] is None for row in rows)
    sound = sensitivity(nets.residual(0), recipe(), Context(0, calibration=nets.pictures(16)))
    assert sound[0]["node"] != "body"


def labelled(count: int, seed: int) -> Any:
    images, labels = task.samples(count, seed=seed)
    return from_arrays({"image": images}, labels)


def solved() -> ir.Model:
    return ir.from_proto(task.solved())


def never(model: ir.Model) -> float:
    raise AssertionError("the evaluation samples were used")


def test_drops_are_measured_on_validation_samples() -> None:
    given = Context(0, calibration=labelled(32, 2), validation=labelled(100, 3), evaluate=never)
    rows = sensitivity(solved(), recipe(), given)
    assert {row["node"] for row in rows} == {"/stem", "/body", "/top", "/fc"}
    assert all(row["drop"] is not None and abs(row["drop"]) <= 0.05 for row in rows)
    assert [row["snr_db"] for row in rows] == sorted(row["snr_db"] for row in rows)


def test_no_calibration_data_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data\.calibration: sensitivity is measured on samples"):
        sensitivity(solved(), recipe(), Context(0))


def test_layers_are_given_back_by_validation_samples() -> None:
    """At 2 bits something must go back; the evaluation samples are not touched."""
    keys = {"accuracy": {"max_drop": 0.01}, "weights": {"scheme": "int2"}, "rounding": "nearest"}
    given = Context(0, calibration=labelled(64, 2), validation=labelled(200, 3), evaluate=never)
    made, change = run(solved(), recipe(**keys), given)
    assert change.details["given_back"]
    assert SAME_SAMPLES not in change.warnings
    held = labelled(300, 9).take(np.arange(300))
    found = nets.outputs(made, held.inputs)[0].argmax(axis=1)
    assert np.mean(found == held.labels) > 0.93


def test_the_card_warns_when_the_same_samples_chose_and_judge() -> None:
    held = labelled(200, 3).take(np.arange(200))

    def evaluate(model: ir.Model) -> float:
        return float(np.mean(nets.outputs(model, held.inputs)[0].argmax(axis=1) == held.labels))

    keys = {"accuracy": {"max_drop": 0.01}, "rounding": "nearest"}
    given = Context(0, calibration=labelled(64, 2), evaluate=evaluate)
    _, change = run(solved(), recipe(weights={"scheme": "int2"}, **keys), given)
    assert change.details["given_back"]
    assert SAME_SAMPLES in change.warnings
    # Nothing was chosen where nothing had to go back.
    _, change = run(solved(), recipe(**keys), given)
    assert change.details["given_back"] == []
    assert SAME_SAMPLES not in change.warnings


def test_validation_data_are_opened_for_accuracy_only() -> None:
    data = {"calibration": {"path": "a.npz"}, "validation": {"path": "b.npz"}}
    for accuracy, wanted in (
        (None, {"calibration": False}),
        ({"max_drop": 0.1}, {"calibration": False, "validation": True}),
    ):
        found = QuantizeRecipe.model_validate({"data": data, "quantize": {"accuracy": accuracy}})
        assert found.needs() == wanted
