from typing import Any

import pytest
from pydantic import ValidationError

from mlcompress.quantize.recipe import QuantizeRecipe


def messages(section: dict[str, Any], **others: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        QuantizeRecipe.model_validate({"quantize": section, **others})
    return " | ".join(error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize("recipe", [{}, {"quantize": {}}, {"quantize": None}])
def test_the_short_form_is_static_int8(recipe: dict[str, Any]) -> None:
    section = QuantizeRecipe.model_validate(recipe).quantize if recipe else QuantizeRecipe().quantize
    assert (section.mode, section.placement, section.form) == ("static", "rules", "int8")
    assert section.weights.granularity == "per_channel"
    assert section.activations.observer.name == "mse"


def test_static_needs_calibration_data_and_the_others_do_not() -> None:
    assert QuantizeRecipe().needs() == {"calibration": False}
    for mode in ("dynamic", "weight_only", "cast"):
        assert QuantizeRecipe.model_validate({"quantize": {"mode": mode}}).needs() == {}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"mode": "qat"}, "'qat' is not in this version"),
        ({"weights": {"scheme": "int4"}}, "'int4' is not in this version; use int8 or fp16"),
        ({"weights": {"granularity": "per_block"}}, "not in this version; use per_channel"),
        ({"activations": {"scheme": "int8"}}, "not in this version; use uint8"),
        ({"storage": "bitmask"}, "not in this version"),
        ({"target": "openvino"}, "not in this version; use cpu"),
        ({"smooth": True, "equalize": True}, "not in this version: equalize, smooth"),
        ({"mode": "cast", "weights": {"scheme": "int8"}}, "int8 does not go with mode cast"),
        ({"weights": {"scheme": "fp16"}}, "fp16 does not go with mode static"),
        ({"mode": "dynamic", "placement": "all"}, "belong to `mode: static`"),
        ({"mode": "weight_only", "activations": {"observer": "mse"}}, "belong to `mode: static`"),
        ({"mode": "weight_only", "storage": "fp16"}, "storage fp16 does not go with mode weight_only"),
        ({"mode": "cast", "storage": "plain"}, "storage plain does not go with mode cast"),
        ({"mode": "cast", "accuracy": {"max_drop": 0.1}}, "accuracy belongs to static and dynamic"),
        ({"accuracy": {"max_drop": 0.1}, "placement": {"plan": "a.json"}}, "accuracy would change the plan"),
        ({"accuracy": {}}, "one limit"),
        ({"accuracy": {"max_drop": 0.1, "min_metric": 0.9}}, "one limit"),
        (
            {"placement": "fastest"},
            "'fastest' is not known; choose one of rules, measured, all, or {plan: CARD}",
        ),
        ({"activations": {"observer": {"name": "percentile", "percentile": 20}}}, "greater than 50"),
        ({"activations": {"symmetric": True}}, "Input should be False"),
        ({"weights": {"symmetric": False}}, "Input should be True"),
    ],
)
def test_what_cannot_be_done_is_refused_at_validation(section: dict[str, Any], words: str) -> None:
    assert words in messages(section)


def test_min_metric_is_refused_for_an_error_metric() -> None:
    text = messages({"accuracy": {"min_metric": 0.1}}, evaluate={"metric": "mse"})
    assert "min_metric" in text


@pytest.mark.parametrize("observer", ["minmax", "moving_minmax", "percentile", "entropy", "mse"])
def test_observers_by_name_or_with_options(observer: str) -> None:
    for value in (observer, {"name": observer}):
        recipe = QuantizeRecipe.model_validate({"quantize": {"activations": {"observer": value}}})
        assert recipe.quantize.activations.observer.name == observer


def test_storage_is_a_choice_of_its_own() -> None:
    for mode, storage, form in [
        ("static", "auto", "int8"),
        ("static", "fp16", "fp16"),
        ("dynamic", "plain", "plain"),
        ("weight_only", "auto", "int8"),
        ("cast", "auto", "fp16"),
    ]:
        section = QuantizeRecipe.model_validate({"quantize": {"mode": mode, "storage": storage}}).quantize
        assert section.form == form
