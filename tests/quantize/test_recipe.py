from typing import Any

import pytest
from pydantic import ValidationError

from mlcompress.graph.encodings import encodings
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.recipe_weights import STORAGES
from mlcompress.quantize.schemes import UNSCALED, schemes


def messages(section: dict[str, Any], **others: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        QuantizeRecipe.model_validate({"quantize": section, **others})
    return " | ".join(error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize("recipe", [{}, {"quantize": {}}, {"quantize": None}])
def test_the_short_form_is_static_int8(recipe: dict[str, Any]) -> None:
    section = QuantizeRecipe.model_validate(recipe).quantize if recipe else QuantizeRecipe().quantize
    assert (section.mode, section.placement, section.storage) == ("static", "rules", "auto")
    assert section.weights.chosen(section.mode).name == "int8"
    assert section.weights.granularity == "per_channel"
    assert section.activations.observer.name == "mse"


def test_static_needs_calibration_data_and_the_others_do_not() -> None:
    assert QuantizeRecipe().needs() == {"calibration": False}
    for mode in ("dynamic", "weight_only", "cast"):
        assert QuantizeRecipe.model_validate({"quantize": {"mode": mode}}).needs() == {}


def test_training_needs_samples_and_labels_only_without_a_teacher() -> None:
    for qat, labels in (({}, False), ({"teacher": "none"}, True)):
        recipe = QuantizeRecipe.model_validate({"quantize": {"mode": "qat", "qat": qat}})
        assert recipe.needs() == {"calibration": False, "train": labels}


def test_every_scheme_of_progressive_training_has_an_epoch() -> None:
    section = {
        "mode": "qat",
        "weights": {"scheme": "int4"},
        "qat": {"progressive": ["int8", "int4"]},
    }
    assert "1 epochs for 2 schemes" in messages(section, train={"epochs": 1})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"qat": {"ranges": "moving"}}, "qat belongs to `mode: qat`, not static"),
        ({"mode": "qat", "rounding": "gptq"}, "rounding and bias_correction belong to static"),
        ({"mode": "qat", "bias_correction": True}, "rounding and bias_correction belong to static"),
        ({"mode": "qat", "accuracy": {"max_drop": 0.1}}, "accuracy belongs to static and dynamic, not qat"),
        (
            {"mode": "qat", "weights": {"scheme": "codebook"}},
            "which trains int8, int4, int2, ternary, binary",
        ),
        ({"mode": "qat", "weights": {"scheme": "fp16"}}, "fp16 does not go with mode qat"),
        ({"mode": "qat", "weights": {"granularity": "per_block"}}, "per_block does not go with mode qat"),
        ({"mode": "qat", "activations": {"symmetric": True}}, "symmetric is not for qat"),
        ({"mode": "qat", "activations": {"scheme": "int16"}}, "int16 is not for qat, which trains uint8"),
        ({"mode": "qat", "weights": {"symmetric": False}}, "symmetric: false does not go with mode qat"),
        ({"mode": "qat", "qat": {"progressive": ["int8", "int4"]}}, "ends with int4, weights.scheme is int8"),
        ({"mode": "qat", "qat": {"progressive": ["int8", "int8"]}}, "names a scheme twice"),
        ({"mode": "qat", "qat": {"teacher": "none", "soft": 0.5}}, "soft would have no effect"),
        ({"mode": "qat", "qat": {"ranges": "fixed"}}, "Input should be 'learned' or 'moving'"),
        ({"mode": "qat", "activations": {"scheme": "int8"}}, "int8 is not for qat, which trains uint8"),
        ({"activations": {"scheme": "float", "observer": "mse"}}, "mean nothing with scheme float"),
        ({"target": "tensorrt"}, "should be 'cpu' or 'openvino'"),
        ({"mode": "dynamic", "equalize": True}, "equalize is for integer Convs, which dynamic does not make"),
        ({"mode": "cast", "smooth": True}, "smooth is for integer activations, which cast does not make"),
        ({"smooth": {"alpha": 1.5}}, "less than or equal to 1"),
        ({"mode": "dynamic", "rounding": "gptq"}, "rounding: for layers with calibrated ranges"),
        ({"rounding": {"name": "adaround", "iterations": 1}}, "greater than or equal to 10"),
        ({"mode": "weight_only", "bias_correction": True}, "bias_correction: for layers with calibrated"),
        ({"mode": "cast", "weights": {"scheme": "int8"}}, "int8 does not go with mode cast, which has fp16"),
        ({"weights": {"scheme": "fp16"}}, "fp16 does not go with mode static, which computes with integers"),
        ({"mode": "dynamic", "weights": {"scheme": "bf16"}}, "bf16 does not go with mode dynamic"),
        (
            {"weights": {"scheme": {"name": "log2", "bits": 5}}},
            "log2 of more than 4 bits does not go with mode",
        ),
        ({"weights": {"granularity": "per_block"}}, "per_block does not go with mode static"),
        ({"weights": {"symmetric": False}}, "symmetric: false does not go with mode static"),
        ({"mode": "weight_only", "weights": {"block": 16}}, "block belongs to `granularity: per_block`"),
        (
            {"mode": "weight_only", "weights": {"scheme": "binary", "symmetric": False}},
            "binary has no zero point",
        ),
        (
            {"mode": "weight_only", "weights": {"scheme": "bf16", "granularity": "per_tensor"}},
            "bf16 has no scales",
        ),
        (
            {"mode": "weight_only", "weights": {"scheme": "int8"}, "storage": "int4"},
            "storage int4 does not go",
        ),
        (
            {"mode": "weight_only", "weights": {"scheme": "codebook"}, "storage": "int8"},
            "storage int8 does not go with mode weight_only and codebook; use auto, packed, codebook",
        ),
        ({"weights": {"scheme": {"name": "codebook", "bits": 9}}}, "less than or equal to 8"),
        ({"storage": "huffman"}, "Input should be 'auto', 'plain'"),
        ({"mode": "dynamic", "placement": "all"}, "belong to `mode: static`"),
        ({"mode": "weight_only", "activations": {"observer": "mse"}}, "belong to `mode: static`"),
        (
            {"mode": "weight_only", "storage": "fp16"},
            "storage fp16 does not go with mode weight_only and int8",
        ),
        ({"mode": "cast", "storage": "plain"}, "storage plain does not go with mode cast"),
        ({"mode": "cast", "storage": "int8"}, "storage int8 does not go with mode cast and fp16"),
        ({"mode": "cast", "accuracy": {"max_drop": 0.1}}, "accuracy belongs to static and dynamic"),
        ({"accuracy": {"max_drop": 0.1}, "placement": {"plan": "a.json"}}, "accuracy would change the plan"),
        ({"accuracy": {}}, "one limit"),
        ({"accuracy": {"max_drop": 0.1, "min_metric": 0.9}}, "one limit"),
        (
            {"placement": "fastest"},
            "'fastest' is not known; choose one of rules, measured, all, or {plan: CARD}",
        ),
        ({"activations": {"observer": {"name": "percentile", "percentile": 20}}}, "greater than 50"),
        ({"activations": {"symmetric": "middle"}}, "valid boolean"),
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
    for mode, storage, scheme in [
        ("static", "auto", "int8"),
        ("static", "fp16", "int8"),
        ("static", "relative", "codebook"),
        ("dynamic", "plain", "int4"),
        ("weight_only", "auto", "binary"),
        ("weight_only", "packed", "ternary"),
        ("cast", "auto", "bf16"),
    ]:
        section = {"mode": mode, "storage": storage, "weights": {"scheme": scheme}}
        assert QuantizeRecipe.model_validate({"quantize": section}).quantize.storage == storage


def test_the_names_of_encodings_are_those_of_the_registry() -> None:
    assert {"auto", *encodings} == set(STORAGES)


def test_each_scheme_has_the_mode_that_it_is_for() -> None:
    for name in schemes:
        modes = ["cast", "weight_only"] if name in UNSCALED else ["static", "dynamic", "weight_only"]
        for mode in modes:
            section = QuantizeRecipe.model_validate({"quantize": {"mode": mode, "weights": {"scheme": name}}})
            assert section.quantize.weights.chosen(mode).name == name
