import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress.errors import RecipeError
from mlcompress.quantize import placement
from mlcompress.quantize.calibrated import Calibrated, calibrate
from mlcompress.quantize.integer import lay_out
from mlcompress.quantize.recipe import QuantizeSection
from tests.quantize import nets


def ready(model: ir.Model, kept: tuple[str, ...] = ()) -> Calibrated:
    return calibrate(model, QuantizeSection(), kept, nets.pictures(4))


def wide(channels: int, activation: str) -> ir.Model:
    """Three 3x3 convolutions of this width on 8 x 8, each followed by an activation."""
    rng = np.random.default_rng(0)
    text = f"""
        g (float[n, 1, 8, 8] image) => (float[n, {channels}, 8, 8] y) {{
            [c0] a0 = Conv <pads = [1, 1, 1, 1]> (image, w0) [a0] b0 = {activation} (a0)
            [c1] a1 = Conv <pads = [1, 1, 1, 1]> (b0, w1) [a1] b1 = {activation} (a1)
            [c2] a2 = Conv <pads = [1, 1, 1, 1]> (b1, w2) [a2] y = {activation} (a2)
        }}
    """
    shapes = {"w0": (channels, 1, 3, 3), "w1": (channels, channels, 3, 3), "w2": (channels, channels, 3, 3)}
    return nets.build(text, {name: nets.floats(rng, *shape, scale=0.1) for name, shape in shapes.items()})


def test_wide_convolutions_run_as_integers_and_narrow_ones_do_not() -> None:
    for channels, expected in ((128, ["c0", "c1", "c2"]), (8, [])):
        found = ready(wide(channels, "Relu"))
        assert placement.rules(found.base.graph, found.allowed, found.sizes) == expected


def test_float_activations_in_between_cost_round_trips() -> None:
    relu, swish = ready(wide(24, "Relu")), ready(wide(24, "HardSwish"))
    assert len(placement.rules(relu.base.graph, relu.allowed, relu.sizes)) == 3
    assert placement.rules(swish.base.graph, swish.allowed, swish.sizes) == []


def test_quantities_are_counted_by_hand() -> None:
    """Two 3x3 convolutions to 16 channels of 8 x 8, a depthwise one on 4 x 4, mean, sum and a product."""
    found = ready(nets.residual())
    layout = lay_out(found.base.graph, found.allowed)
    assert placement.quantities(layout, found.sizes) == pytest.approx(
        {
            "conv_megamacs": (16 * 64 * 9 + 16 * 64 * 16 * 9) / 1e6,
            "product_megamacs": 16 * 4 / 1e6,
            "convs": 3,
            "products": 1,
            "joins": 2,
            "round_trips": 1,
            "round_trip_kiloelements": 0.064,
        }
    )


def test_skipped_nodes_are_never_chosen() -> None:
    found = ready(wide(128, "Relu"), kept=("c1",))
    assert placement.rules(found.base.graph, found.allowed, found.sizes) == ["c0", "c2"]
    for nodes in placement.candidates(found.base.graph, found.allowed, found.sizes).values():
        assert "c1" not in nodes


def test_candidates_are_distinct_and_hold_both_ends() -> None:
    found = ready(nets.residual())
    choices = placement.candidates(found.base.graph, found.allowed, found.sizes)
    assert choices["all"] == ["stem", "body", "add", "deep", "mean", "fc"]
    assert [] in choices.values()
    assert "deep" not in choices["no depthwise"]
    assert "stem" not in choices["no stem"]
    lists = list(choices.values())
    assert all(lists.index(nodes) == index for index, nodes in enumerate(lists))


def test_a_plan_is_read_from_a_card(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    plan = {"integer": ["body"], "storage": "int8", "plain": ["fc"]}
    card.write_text(json.dumps({"change": {"details": {"plan": plan}}}))
    assert placement.read_plan(str(card)) == plan
    found = ready(nets.residual())
    assert placement.replay(found.base.graph, plan["integer"], "card.json") == ["body"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds no plan"),
        ('{"change": {"details": {}}}', "holds no plan"),
        (
            '{"change": {"details": {"plan": {"integer": [], "plain": [], "storage": "odd"}}}}',
            "'odd' is not known",
        ),
    ],
)
def test_bad_plans_are_refused(tmp_path: Path, content: str | None, words: str) -> None:
    card = tmp_path / "card.json"
    if content is not None:
        card.write_text(content)
    with pytest.raises(RecipeError, match=words):
        placement.read_plan(str(card))


def test_a_plan_of_another_model_is_refused() -> None:
    found = ready(nets.residual())
    with pytest.raises(RecipeError, match="no such integer nodes: elsewhere"):
        placement.replay(found.base.graph, ["body", "elsewhere"], "card.json")
