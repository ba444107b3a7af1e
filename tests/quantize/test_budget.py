"""Schemes of single weights under a limit on the file. Oracles: all allocations tried by hand; sizes from `len`
of the file; weights decoded by onnxruntime."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pydantic import ValidationError

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import RecipeError, UnsupportedError
from mlcompress.quantize.allocation import Option, allocate, options_of
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.recipe_budget import Budget
from mlcompress.quantize.recipe_weights import Weights
from mlcompress.quantize.run import run
from mlcompress.quantize.schemes import schemes
from mlcompress.recipe.load import load
from tests import task
from tests.quantize import nets

INT8, INT4, INT2 = (schemes.choose(name) for name in ("int8", "int4", "int2"))


def recipe(**keys: Any) -> QuantizeRecipe:
    return QuantizeRecipe.model_validate({"quantize": keys})


def table(rng: np.random.Generator, count: int) -> dict[str, list[Option]]:
    """Weights with convex costs, as rounding has: each bit less makes four times the noise."""
    found = {}
    for index in range(count):
        size, noise = int(rng.integers(50, 500)), float(rng.uniform(0.1, 10))
        found[f"w{index}"] = [
            Option(scheme, size * bits, noise * 4.0 ** (8 - bits))
            for scheme, bits in ((INT8, 8), (INT4, 4), (INT2, 2))
        ]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_an_allocation_is_near_the_best_of_all(seed: int) -> None:
    """3^6 allocations, all tried. Greedy steps end within one step of the limit; the bound is the noise of the best
    allocation of a limit smaller by the largest step, which greedy must beat."""
    options = table(np.random.default_rng(seed), 6)
    everything = list(itertools.product(*options.values()))
    sizes = np.array([sum(one.bytes for one in combination) for combination in everything])
    noises = np.array([sum(one.noise for one in combination) for combination in everything])
    for limit in (int(np.quantile(sizes, share)) for share in (0.1, 0.4, 0.8)):
        chosen = allocate(options, limit)
        assert sum(one.bytes for one in chosen.values()) <= limit
        largest = max(row[0].bytes - row[1].bytes for row in options.values())
        within = sizes <= max(limit - largest, sizes.min())
        noise = sum(one.noise for one in chosen.values())
        assert noises[sizes <= limit].min() * (1 - 1e-12) <= noise <= noises[within].min() * (1 + 1e-12)


def test_what_cannot_fit_is_the_smallest_and_what_fits_is_the_best() -> None:
    options = table(np.random.default_rng(0), 5)
    assert {one.scheme.name for one in allocate(options, 0).values()} == {"int2"}
    assert {one.scheme.name for one in allocate(options, 10**9).values()} == {"int8"}


def test_an_option_that_is_larger_and_noisier_is_never_taken() -> None:
    options = {"w": [Option(INT8, 100, 1.0), Option(INT4, 120, 2.0), Option(INT2, 20, 30.0)]}
    for limit in (10, 50, 110, 200):
        assert allocate(options, limit)["w"].scheme.name != "int4"


def test_noise_is_that_of_the_output_with_one_weight_rounded() -> None:
    """Against onnxruntime on a graph whose one weight was replaced here by plain rounding."""
    model, data = nets.perceptron(), nets.rows(8)
    found = options_of(model, Weights(), [INT8, INT4], [], data)
    assert set(found) == {"one_weight", "two_weight", "three_weight"}
    weight = nets.array(model, "one_weight")
    step = np.abs(weight).max(axis=0) / np.float32(127)
    spoilt = graph.copy(model)
    spoilt.graph.initializers["one_weight"].const_value = ir.tensor(np.rint(weight / step) * step)
    feed = data.take(np.arange(8)).inputs
    before, after = nets.outputs(model, feed)[0], nets.outputs(spoilt, feed)[0]
    wanted = np.sum((before - after) ** 2) / np.sum(before**2)
    # float32 sums of different order, and scales that differ in the last bit
    assert found["one_weight"][0].noise == pytest.approx(wanted, rel=0.02)
    assert found["one_weight"][1].noise > 30 * wanted


def test_noise_without_samples_is_that_of_the_weight() -> None:
    model = nets.perceptron()
    found = options_of(model, Weights(granularity="per_tensor"), [INT8], [], None)
    weight = nets.array(model, "one_weight").astype(np.float64)
    step = np.abs(weight).max() / 127
    lost = np.sum((np.rint(weight / step) * step - weight) ** 2) / np.sum(weight**2) * weight.size
    assert found["one_weight"][0].noise == pytest.approx(lost, rel=1e-4)


MODES = [
    {"mode": "weight_only"},
    {"mode": "static", "placement": "all"},
    {"mode": "static", "placement": "all", "rounding": "nearest", "activations": {"observer": "minmax"}},
    {"mode": "dynamic"},
]


@pytest.mark.parametrize("keys", MODES, ids=lambda keys: "-".join(map(str, keys.values()))[:24])
def test_the_file_is_within_the_budget_and_the_plan_repeats_it(tmp_path: Path, keys: dict[str, Any]) -> None:
    model = encoder()
    data = nets.rows(32)
    most = len(graph.to_bytes(model)) // 5
    given = Context(0, calibration=data)
    made, change = run(model, recipe(budget={"max_bytes": most}, **keys), given)
    written = graph.to_bytes(made)
    assert 0.8 * most < len(written) <= most
    assert change.details["budget"] == {"limit": most, "bytes": len(written)}
    names = {row["name"] for row in change.details["bits"].values()}
    assert len(names) > 1
    assert change.details["bits"].keys() == change.details["plan"]["layers"].keys()
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"change": {"details": change.details}}))
    repeated = {**keys, "placement": {"plan": str(card)}, "budget": {"max_bytes": most}}
    again, _ = run(model, recipe(**repeated), given)
    assert graph.to_bytes(again) == written
    smaller = {**repeated, "budget": {"max_bytes": len(written) - 1}}
    words = rf"the plan gives {len(written):,} bytes, {len(written) - 1:,} are allowed"
    with pytest.raises(UnsupportedError, match=words):
        run(model, recipe(**smaller), given)


def encoder() -> ir.Model:
    """Three products, of which the last is read by the output alone."""
    rng = np.random.default_rng(3)
    text = """
    g (float[batch, 32] x) => (float[batch, 48] y) {
        [one] a = MatMul (x, one_weight)
        [act] b = Relu (a)
        [two] c = MatMul (b, two_weight)
        [act2] d = Relu (c)
        [three] y = MatMul (d, three_weight)
    }
    """
    shapes = {"one_weight": (32, 128), "two_weight": (128, 128), "three_weight": (128, 48)}
    return nets.build(text, {name: nets.floats(rng, *shape, scale=0.1) for name, shape in shapes.items()})


def test_a_more_generous_budget_gives_outputs_that_are_nearer() -> None:
    model, data = encoder(), nets.rows(32)
    feed = data.take(np.arange(32)).inputs
    reference, found = nets.outputs(model, feed)[0], []
    for ratio in (0.12, 0.2, 0.29):
        keys = {"mode": "weight_only", "budget": {"max_size_ratio": ratio}}
        made, _ = run(model, recipe(**keys), Context(0, calibration=data))
        found.append(nets.decibels(reference, nets.outputs(made, feed)[0]))
    assert found[0] + 3 < found[1] < found[2] - 3


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    model = encoder()
    with pytest.raises(UnsupportedError, match="1,000 bytes are allowed, the smallest file has") as told:
        run(model, recipe(mode="weight_only", budget={"max_bytes": 1000}), Context(0))
    least = int(str(told.value).split("smallest file has ")[1].split(";")[0].replace(",", ""))
    made, _ = run(model, recipe(mode="weight_only", budget={"max_bytes": least}), Context(0))
    assert len(graph.to_bytes(made)) <= least


def test_schemes_of_single_layers() -> None:
    """Later patterns win; a weight has as many levels as its scheme."""
    model = encoder()
    layers = {"op:MatMul": "int4", "two_weight": "int2"}
    made, change = run(model, recipe(mode="weight_only", weights={"layers": layers}), Context(0))
    assert {name: one["name"] for name, one in change.details["plan"]["layers"].items()} == {
        "one_weight": "int4",
        "two_weight": "int2",
        "three_weight": "int4",
    }
    loaded = ir.from_proto(ir.to_proto(made))
    taps = [
        value for node in loaded.graph for value in node.outputs if value.name in layers | {"one_weight": 0}
    ]
    loaded.graph.outputs.extend(taps)
    found = dict(
        zip(
            [str(v.name) for v in taps],
            nets.outputs(loaded, nets.rows(1).take(np.arange(1)).inputs)[1:],
            strict=True,
        )
    )
    counts = {name: max(len(np.unique(column)) for column in weight.T) for name, weight in found.items()}
    assert counts["two_weight"] <= 3
    assert 8 < counts["one_weight"] <= 15


def test_a_pattern_without_a_layer_is_refused() -> None:
    wrong = recipe(mode="weight_only", weights={"layers": {"/nowhere": "int4"}})
    with pytest.raises(RecipeError, match=r"quantize\.weights\.layers: '/nowhere' matches no node"):
        run(encoder(), wrong, Context(0))


def test_sizes_are_numbers_or_have_a_unit() -> None:
    for text, wanted in (("12.5 MiB", 13107200), ("3kB", 3000), (700, 700), ("1e3", None)):
        if wanted is None:
            with pytest.raises(ValidationError, match="is no size"):
                Budget.model_validate({"max_bytes": text})
        else:
            assert Budget.model_validate({"max_bytes": text}).limit(1) == wanted
    assert Budget.model_validate({"max_size_ratio": 0.25}).limit(1000) == 250


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"budget": {}}, "one limit"),
        ({"budget": {"max_bytes": 10, "max_size_ratio": 0.1}}, "one limit"),
        ({"budget": {"max_bytes": 10, "over": ["int8", "int8"]}}, "names a scheme twice"),
        ({"budget": {"max_bytes": 10}, "weights": {"scheme": "int4"}}, "leave weights.scheme out"),
        ({"budget": {"max_bytes": 10}, "storage": "int4"}, "leave storage out"),
        ({"budget": {"max_bytes": 10, "over": ["int8", "fp16"]}}, "fp16 does not go with mode static"),
        ({"mode": "qat", "budget": {"max_bytes": 10}}, "not qat"),
        ({"mode": "cast", "weights": {"layers": {"a": "int4"}}}, "not cast"),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        recipe(**keys)


def test_layers_that_go_back_to_float_take_their_bytes_from_the_others() -> None:
    """With 2 bits at hand the accuracy does not hold everywhere; both limits hold in the file."""
    model = ir.from_proto(task.solved())
    images, labels = task.samples(200, seed=3)
    held = from_arrays({"image": images}, labels)
    given = Context(0, calibration=nets.pictures(32), validation=held)
    most = int(0.45 * len(graph.to_bytes(model)))
    keys = {"placement": "all", "rounding": "nearest", "accuracy": {"max_drop": 0.02}}
    made, change = run(model, recipe(budget={"max_bytes": most}, **keys), given)
    assert len(graph.to_bytes(made)) <= most
    found, before = (nets.outputs(one, {"image": images})[0].argmax(axis=1) for one in (made, model))
    assert np.mean(found == labels) >= np.mean(before == labels) - 0.02
    assert change.details["metrics_tried"]


def test_the_summary_names_no_scheme_where_schemes_differ() -> None:
    layers = {"one": "int4", "two": "ternary"}
    _, change = run(
        nets.perceptron(),
        recipe(mode="weight_only", weights={"layers": layers}, storage="packed"),
        Context(0),
    )
    assert change.summary == "weights stored: 3 as packed"
    _, change = run(nets.perceptron(), recipe(mode="weight_only", storage="packed"), Context(0))
    assert change.summary == "int8 weights stored: 3 as packed"


@pytest.mark.parametrize(("over", "words"), [("[]", "is empty"), ("[int8]", "has 1")])
def test_a_budget_has_two_schemes_at_least(over: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"quantize: {{budget: {{max_size_ratio: 0.2, over: {over}}}}}")
    with pytest.raises(RecipeError) as caught:
        load(str(path), QuantizeRecipe)
    assert caught.value.lines == (f"{path}:1: quantize.budget.over: {words}; name at least 2",)
