import numpy as np
import onnxruntime as ort
import pytest

from mlcompress.data.dataset import from_arrays
from mlcompress.errors import DataError, ModelError
from mlcompress.measure import accuracy
from mlcompress.measure.accuracy import Paired
from mlcompress.recipe.sections import Evaluate
from tests.measure.models import linear, parse

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((4, 7)).astype(np.float32)
X = RANDOM.standard_normal((53, 4)).astype(np.float32)
LABELS = np.where(RANDOM.random(53) < 0.7, (X @ WEIGHT).argmax(1), RANDOM.integers(0, 7, 53))
DATA = from_arrays({"x": X}, LABELS)
SHARE = float(((X @ WEIGHT).argmax(1) == LABELS).mean())


@pytest.mark.parametrize("batch_size", [1, 16, 53, 256])
def test_top1_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    found = accuracy.evaluate(linear(WEIGHT), DATA, Evaluate(batch_size=batch_size))
    assert found.value == pytest.approx(SHARE)
    assert found.samples == 53
    assert found.low is not None
    assert found.high is not None
    assert found.low < SHARE < found.high
    assert found.higher_is_better


@pytest.mark.parametrize("fixed", [1, 10])
def test_a_fixed_batch_fills_up_the_last_one_and_does_not_judge_that(fixed: int) -> None:
    found = accuracy.evaluate(linear(WEIGHT, fixed), DATA, Evaluate())
    assert (found.value, found.samples) == (pytest.approx(SHARE), 53)


def test_agreement_with_itself_and_with_its_opposite() -> None:
    settings = Evaluate(metric="agreement")
    same = accuracy.evaluate(linear(WEIGHT), DATA, settings, reference=linear(WEIGHT))
    opposite = accuracy.evaluate(linear(-WEIGHT), DATA, settings, reference=linear(WEIGHT))
    assert same.value == 1
    assert opposite.value == 0


def test_snr_of_a_scaled_model_by_hand() -> None:
    # The error is a tenth of the output: 10 log10(1 / 0.01) = 20 dB; float32 weights leave 1e-5 dB.
    settings = Evaluate(metric="snr")
    found = accuracy.evaluate(linear(0.9 * WEIGHT), DATA, settings, reference=linear(WEIGHT))
    assert found.value == pytest.approx(20, abs=1e-4)
    equal = accuracy.evaluate(linear(WEIGHT), DATA, settings, reference=linear(WEIGHT))
    assert equal.value == np.inf
    assert equal.as_json()["value"] is None


def test_mse_takes_float_labels_else_the_reference() -> None:
    targets = (X @ WEIGHT + 2).astype(np.float32)
    settings = Evaluate(metric="mse")
    labelled = accuracy.evaluate(linear(WEIGHT), from_arrays({"x": X}, targets), settings)
    assert labelled.value == pytest.approx(4, rel=1e-6)  # float32 sums
    assert not labelled.higher_is_better
    against = accuracy.evaluate(linear(WEIGHT), DATA, settings, reference=linear(WEIGHT))
    assert against.value == 0
    with pytest.raises(DataError, match="mse compares with another model's outputs and there is none"):
        accuracy.evaluate(linear(WEIGHT), DATA, settings)


def test_paired_counts() -> None:
    before = accuracy.evaluate(linear(WEIGHT), DATA, Evaluate())
    after = accuracy.evaluate(linear(WEIGHT + 0.3), DATA, Evaluate())
    worse = accuracy.evaluate(linear(-WEIGHT), DATA, Evaluate())
    was, now = (X @ WEIGHT).argmax(1) == LABELS, (X @ -WEIGHT).argmax(1) == LABELS
    assert accuracy.paired(before, before) == Paired(0, 0)
    assert accuracy.paired(before, worse) == Paired(int((now & ~was).sum()), int((was & ~now).sum()))
    found = accuracy.paired(before, after)
    assert found is not None
    assert found.fixed - found.broken == round((after.value - before.value) * 53)
    f1 = accuracy.evaluate(linear(WEIGHT), DATA, Evaluate(metric="f1"))
    assert accuracy.paired(f1, f1) is None


TWO_OUTPUTS = parse(
    """g (float[N, 4] x, float scale) => (float[N, 1] p, float[N, 7] logits, float total) {
        logits = MatMul (x, w)
        s = ReduceMean <keepdims = 1> (x, axis)
        t = Mul (s, scale)
        p = Sigmoid (t)
        total = ReduceSum <keepdims = 0> (x)
    }""",
    w=WEIGHT,
    axis=np.asarray([1]),
)


def test_output_by_name_and_scalar_inputs() -> None:
    data = from_arrays({"x": X, "scale": np.full(53, 3, np.float32)}, LABELS)
    found = accuracy.evaluate(TWO_OUTPUTS, data, Evaluate(output="logits"))
    assert found.value == pytest.approx(SHARE)
    with pytest.raises(ModelError, match="has no output 'logit'; it has p, logits, total"):
        accuracy.evaluate(TWO_OUTPUTS, data, Evaluate(output="logit"))
    with pytest.raises(ModelError, match="has no batch axis"):
        accuracy.evaluate(TWO_OUTPUTS, data, Evaluate(output="total"))


def test_a_scalar_input_takes_one_value_for_all_samples() -> None:
    data = from_arrays({"x": X, "scale": np.arange(53, dtype=np.float32)}, LABELS)
    with pytest.raises(DataError, match="scale: samples differ"):
        accuracy.evaluate(TWO_OUTPUTS, data, Evaluate(output="logits"))


def test_the_first_output_is_a_probability() -> None:
    scale = np.full(53, 3, np.float32)
    session = ort.InferenceSession(TWO_OUTPUTS, providers=["CPUExecutionProvider"])
    p = session.run(["p"], {"x": X, "scale": np.asarray(scale[0])})[0][:, 0]
    labels = (RANDOM.random(53) > 0.5).astype(np.int64)
    data = from_arrays({"x": X, "scale": scale}, labels)
    found = accuracy.evaluate(TWO_OUTPUTS, data, Evaluate())
    assert found.value == pytest.approx(((p > 0.5) == labels).mean())


def test_data_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="top1 needs labels and there are none"):
        accuracy.evaluate(linear(WEIGHT), from_arrays({"x": X}), Evaluate())
    with pytest.raises(DataError, match="nothing for the model's input 'x'"):
        accuracy.evaluate(linear(WEIGHT), from_arrays({"y": X}, LABELS), Evaluate())
    with pytest.raises(DataError, match="cannot be run on the inputs given"):
        accuracy.evaluate(linear(WEIGHT), from_arrays({"x": X[:, :3]}, LABELS), Evaluate())
    with pytest.raises(DataError, match="has no samples"):
        accuracy.evaluate(linear(WEIGHT), DATA.subset(np.arange(0)), Evaluate())


def test_nan_is_an_error_and_not_class_0() -> None:
    with pytest.raises(ModelError, match="output 'logits' has NaN"):
        accuracy.evaluate(linear(np.full((4, 7), np.nan)), DATA, Evaluate())


def test_fixed_batches_that_differ_cannot_be_compared() -> None:
    with pytest.raises(ModelError, match="fixed batch size differs"):
        accuracy.evaluate(linear(WEIGHT, 4), DATA, Evaluate(metric="snr"), reference=linear(WEIGHT, 5))
