"""The stage as the pipeline calls it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import DataError, RecipeError, UnsupportedError
from mlcompress.graph.encodings import Chains, Codes, store
from mlcompress.measure.stored import check_stored
from mlcompress.quantize.calibrated import calibrate
from mlcompress.quantize.kernels import missing
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run
from mlcompress.quantize.sensitivity import output_noise
from tests import task
from tests.quantize import nets

ALL = {"placement": "all"}


def solved() -> ir.Model:
    return ir.from_proto(task.solved())


def context(**others: Any) -> Context:
    images, labels = task.samples(200, seed=2)
    held, truth = task.samples(300, seed=3)

    def evaluate(model: ir.Model) -> float:
        return float(np.mean(nets.outputs(model, {"image": held})[0].argmax(axis=1) == truth))

    return Context(0, calibration=from_arrays({"image": images}, labels), evaluate=evaluate, **others)


def quantised(
    section: dict[str, Any], given: Context | None = None, **shared: Any
) -> tuple[ir.Model, Change]:
    recipe = QuantizeRecipe.model_validate({"quantize": section, **shared})
    return run(solved(), recipe, given or context())


def accuracy(model: ir.Model) -> float:
    found = context().evaluate
    value = found(model) if found is not None else None
    return value if value is not None else float("nan")


@pytest.mark.parametrize(
    "section",
    [
        {},
        ALL,
        {"mode": "weight_only"},
        {"mode": "cast"},
        {"mode": "dynamic", "storage": "int8"},
        {"storage": "fp16"},
    ],
    ids=str,
)
def test_the_task_is_still_solved_in_a_smaller_file(section: dict[str, Any]) -> None:
    before = solved()
    untouched = graph.to_bytes(before)
    model, change = run(before, QuantizeRecipe.model_validate({"quantize": section}), context())
    assert graph.to_bytes(before) == untouched
    # One of 300 samples is .0033.
    assert accuracy(model) >= accuracy(before) - 0.01
    assert change.details["bytes"]["after"] == len(graph.to_bytes(model))
    assert change.details["bytes"]["after"] < 0.75 * change.details["bytes"]["before"]
    assert graph.signature(model) == graph.signature(before)
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(model)), full_check=True)
    assert json.loads(json.dumps(change.details)) == change.details
    assert change.summary
    is_float = section.get("mode", "static") == "static" and not change.details["integer_nodes"]
    assert [line[:43] for line in change.warnings if section.get("mode") != "dynamic"] == (
        ["quantize: no layer computes with integers, "] if is_float else []
    )


def test_all_means_all() -> None:
    model, change = quantised(ALL)
    image = task.samples(1, seed=0)[0]
    kernels = nets.kernels(model, {"image": image})
    assert kernels == change.details["kernels"]
    assert kernels["QLinearConv"] == 3
    assert kernels["QLinearAdd"] == 1
    assert "Conv" not in kernels
    assert change.details["plan"]["integer"] == ["/stem", "/body", "/add", "/top", "/pool", "/fc"]


@pytest.mark.parametrize("observer", ["minmax", "moving_minmax", "percentile", "entropy", "mse"])
def test_every_observer_holds_the_accuracy(observer: str) -> None:
    model, change = quantised(ALL | {"activations": {"observer": observer}})
    assert accuracy(model) >= accuracy(solved()) - 0.01
    assert change.details["observer"]["name"] == observer


def test_skip_keeps_nodes_in_float() -> None:
    model, change = quantised(ALL, skip=["/body", "op:Gemm"])
    kernels = change.details["kernels"]
    assert kernels["QLinearConv"] == 2
    assert nets.array(model, "fc.weight").dtype == np.float32
    reasons = {entry["name"]: entry["reason"] for entry in change.skipped}
    assert reasons["/body"] == reasons["/fc"] == "`skip` names it"


def test_a_skip_pattern_without_a_node_is_an_error() -> None:
    with pytest.raises(RecipeError, match="skip: '/bodi' matches no node; did you mean '/body'"):
        quantised({}, skip=["/bodi"])


def test_measured_takes_the_fastest_and_its_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    seen: list[int] = []

    def latency(models: Sequence[ir.Model]) -> list[float]:
        """As if a graph were the faster the more quantisers it has."""
        seen.append(len(models))
        return [1.0 / (1 + nets.ops(model).count("QuantizeLinear")) for model in models]

    model, change = quantised({"placement": "measured"}, context(latency=latency))
    assert seen == [len(change.details["candidates_ms"])]
    assert len(change.details["plan"]["integer"]) == 6
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"change": {"details": change.details}}))
    again, second = quantised({"placement": {"plan": str(card)}})
    assert graph.to_bytes(again) == graph.to_bytes(model)
    assert second.details["plan"] == change.details["plan"]
    assert graph.to_bytes(again) != graph.to_bytes(quantised({})[0])


def test_measured_keeps_the_rules_within_noise() -> None:
    given = context(latency=lambda models: [1.0 - 0.001 * index for index in range(len(models))])
    assert quantised({"placement": "measured"}, given)[1].details["plan"] == quantised({})[1].details["plan"]


def test_layers_are_given_back_until_the_accuracy_holds() -> None:
    given = context()
    honest = given.evaluate
    calls: list[int] = []

    def strict(model: ir.Model) -> float:
        """Half marks while /body runs as integers."""
        calls.append(1)
        body = next(node for node in model.graph if node.name == "/body")
        value = honest(model) if honest is not None else None
        good = value if value is not None else 0.0
        reads_integers = str(body.inputs[0].name if body.inputs[0] else "").endswith("_dequantized")
        return 0.5 * good if reads_integers and "body.weight_scale" in model.graph.initializers else good

    given.evaluate = strict
    model, change = quantised(ALL | {"accuracy": {"max_drop": 0.02}}, given)
    assert "/body" in change.details["given_back"]
    assert "/body" not in change.details["plan"]["integer"]
    assert change.details["metrics_tried"]
    assert nets.array(model, "body.weight").dtype == np.float32
    reasons = {entry["name"]: entry["reason"] for entry in change.skipped}
    assert reasons["/body"] == "given back to hold the accuracy"


def test_accuracy_without_data_is_an_error() -> None:
    given = context()
    given.evaluate = lambda model: None
    with pytest.raises(DataError, match=r"data\.validation: quantize\.accuracy needs samples"):
        quantised({"accuracy": {"min_metric": 0.5}}, given)


def test_static_without_calibration_data_says_what_to_write() -> None:
    with pytest.raises(DataError, match=r"data\.calibration: .*add `data: \{calibration: \{path: "):
        quantised({}, Context(0))


def test_dynamic_needs_no_data() -> None:
    model, change = quantised({"mode": "dynamic"}, Context(0))
    assert change.details["kernels"]
    assert accuracy(model) >= accuracy(solved()) - 0.01
    assert any("3 Conv nodes stay float" in warning for warning in change.warnings)


def test_dynamic_refuses_a_graph_without_products() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        "g (float[n, 4, 8, 8] x) => (float[n, 8, 6, 6] y) { [only] y = Conv (x, w) }",
        {"w": nets.floats(rng, 8, 4, 3, 3)},
    )
    recipe = QuantizeRecipe.model_validate({"quantize": {"mode": "dynamic"}})
    with pytest.raises(UnsupportedError, match=r"only: Conv has no fast dynamic kernel.*mode: weight_only"):
        run(model, recipe, Context(0))


def test_dynamic_refuses_to_make_the_file_larger() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        "g (float[n, 4] x) => (float[n, 4] y) { y = MatMul (x, w) }", {"w": nets.floats(rng, 4, 4)}
    )
    recipe = QuantizeRecipe.model_validate({"quantize": {"mode": "dynamic"}})
    with pytest.raises(UnsupportedError, match=r"would grow from \d+ to \d+ bytes"):
        run(model, recipe, Context(0))


@pytest.mark.parametrize(
    "section", [ALL, {"mode": "dynamic"}, {"mode": "weight_only"}, {"mode": "cast"}], ids=str
)
def test_a_graph_with_nothing_to_quantise_is_refused(section: dict[str, Any]) -> None:
    model = nets.build("g (float[n, 1, 8, 8] image) => (float[n, 1, 8, 8] y) { y = Relu (image) }", {})
    with pytest.raises(UnsupportedError, match=r"nothing in this model|no MatMul, Gemm or LSTM"):
        run(model, QuantizeRecipe.model_validate({"quantize": section}), context())


def test_a_quantised_graph_is_refused() -> None:
    for section in (ALL, {"mode": "dynamic", "storage": "plain"}):
        model, _ = quantised(section)
        with pytest.raises(UnsupportedError, match=r"quantised already \(.* x \d"):
            run(model, QuantizeRecipe(), context())


def test_an_old_operator_set_is_raised_for_static() -> None:
    rng = np.random.default_rng(0)
    model = nets.build(
        "g (float[n, 1, 8, 8] image) => (float[n, 8, 6, 6] y) { c = Conv (image, w) y = Relu (c) }",
        {"w": nets.floats(rng, 8, 1, 3, 3)},
        opset=11,
    )
    made, change = run(model, QuantizeRecipe.model_validate({"quantize": ALL}), context())
    assert made.opset_imports[""] == 13
    assert change.details["kernels"]["QLinearConv"] == 1


def test_the_same_bytes_twice() -> None:
    for section in ({}, ALL, {"mode": "dynamic"}, {"mode": "weight_only"}, {"mode": "cast"}):
        assert graph.to_bytes(quantised(section)[0]) == graph.to_bytes(quantised(section)[0])


def stored_net(scale: float = 0.5) -> tuple[ir.Model, dict[str, Codes]]:
    """A product whose int8 weight `w` is stored as bytes and a scale."""
    rng = np.random.default_rng(0)
    model = nets.build(
        "g (float[n, 32] x) => (float[n, 32] y) { y = MatMul (x, w) }", {"w": nets.floats(rng, 32, 32)}
    )
    codes = Codes(rng.integers(-127, 128, (32, 32)).astype(np.int8), np.float32([[scale]]))
    store(Chains(model), model.graph.initializers["w"], codes, "int8")
    return model, {"w": codes}


X = {"x": nets.floats(np.random.default_rng(1), 3, 32)}


def test_a_weight_that_is_expanded_at_load_passes() -> None:
    model, codes = stored_net()
    ran = check_stored(model, codes, X)
    assert ran.ops == {"MatMul": 1}
    np.testing.assert_allclose(ran.outputs[0], X["x"] @ codes["w"].values(), rtol=1e-4, atol=1e-3)


def test_a_weight_that_is_decoded_at_every_run_is_an_error() -> None:
    model, codes = stored_net()
    # A scale that comes from the graph input cannot be folded.
    multiply = next(node for node in model.graph if node.op_type == "Mul")
    largest = ir.Node(
        "", "ReduceMax", [model.graph.inputs[0]], {"keepdims": ir.AttrInt64("keepdims", 0)}, name="m"
    )
    largest.outputs[0].name = "m0"
    model.graph.insert_before(multiply, [largest])
    multiply.replace_input_with(1, largest.outputs[0])
    with pytest.raises(UnsupportedError, match=r"decode at every inference: w; use `storage: plain`"):
        check_stored(model, codes, X)


def test_other_bits_than_those_of_the_plain_weight_are_an_error() -> None:
    model, codes = stored_net()
    other = codes["w"].stored.copy()
    other[3, 4] ^= 1
    with pytest.raises(UnsupportedError, match="outputs at ORT_ENABLE_EXTENDED are not those of the plain"):
        check_stored(model, {"w": Codes(other, codes["w"].scale)}, X)


def test_other_kernels_than_those_of_the_plain_weight_are_an_error() -> None:
    model, codes = stored_net()
    # A stored form that keeps onnxruntime from folding leaves a DequantizeLinear behind.
    cast, multiply = model.graph[0], model.graph[1]
    restore = ir.Node("", "DequantizeLinear", [cast.inputs[0], codes_scale(model)], name="d")
    restore.outputs[0].name, multiply.outputs[0].name = "d0", "was"
    model.graph.insert_before(multiply, [restore])
    ir.convenience.replace_all_uses_with(multiply.outputs[0], restore.outputs[0])
    model.graph.remove([multiply, cast], safe=True)
    with pytest.raises(
        UnsupportedError, match="other kernels run than with plain weights at ORT_ENABLE_EXTENDED: MatMul"
    ):
        restore.outputs[0].name = "w"
        check_stored(model, codes, X)


def codes_scale(model: ir.Model) -> ir.Value:
    value = ir.Value(
        name="s", const_value=ir.tensor(np.float32(0.5), name="s"), type=ir.TensorType(ir.DataType.FLOAT)
    )
    model.graph.register_initializer(value)
    return value


SECTIONS = [ALL, {"mode": "dynamic", "storage": "int8"}, {"mode": "weight_only"}, {"mode": "cast"}]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_a_fixed_batch_is_filled(section: dict[str, Any]) -> None:
    model = nets.fix_batch(solved(), 8)
    images, labels = task.samples(5, seed=2)  # fewer than the batch
    given = Context(0, calibration=from_arrays({"image": images}, labels))
    made, change = run(model, QuantizeRecipe.model_validate({"quantize": section}), given)
    assert change.details["kernels"]
    assert graph.signature(made).inputs[0].shape == (8, 1, 8, 8)


def test_layers_of_a_fixed_batch_are_ranked_on_the_samples_that_an_open_one_is_ranked_on() -> None:
    images, labels = task.samples(16, seed=2)
    data = from_arrays({"image": images}, labels)
    section = QuantizeRecipe.model_validate({"quantize": ALL}).quantize
    names = ["/stem", "/body", "/top", "/fc"]
    found = [
        output_noise(calibrate(model, section, (), data), names, data)
        for model in (solved(), nets.fix_batch(solved(), 4))
    ]
    # .01 dB: the sums of four runs and of one run differ in order.
    assert found[0] == pytest.approx(found[1], abs=0.01)


def test_the_profiled_run_has_the_shapes_of_the_latency_runs() -> None:
    """Axis `t` must be 10, which no declared shape tells."""
    rng = np.random.default_rng(0)
    model = nets.build(
        """g (float[n, t, 64] x) => (float[n, 10, 64] y) {
            p = MatMul (x, w)
            f = Reshape (p, to)
            y = Add (f, table)
        }""",
        {
            "w": nets.floats(rng, 64, 64),
            "to": np.array([-1, 640]),
            "table": nets.floats(rng, 640),
        },
    )
    model.graph.outputs[0].shape = ir.Shape(["n", 640])
    recipe = QuantizeRecipe.model_validate({"quantize": {"mode": "dynamic"}})
    with pytest.raises(DataError, match="cannot be run"):  # 16, where nothing else is known
        run(model, recipe, Context(0))
    _, change = run(model, recipe, Context(0, feed={"x": nets.floats(rng, 1, 10, 64)}))
    assert change.details["kernels"]["Reshape"] == 1


def test_missing_kernels_are_counted() -> None:
    assert missing({"QLinearConv": 3, "QGemm": 1}, {"Conv": 3, "Gemm": 1}) == []
    lines = missing({"QLinearConv": 2}, {"Conv": 3, "MatMul": 1, "Add": 1})
    assert lines[0].startswith("1 of 3 Conv nodes run in float")
    assert len(lines) == 3
