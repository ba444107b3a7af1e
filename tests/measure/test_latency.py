from pathlib import Path

import numpy as np
import pytest

from mlcompress.errors import ModelError, UnsupportedError
from mlcompress.measure import latency
from mlcompress.measure.latency import Ratio
from mlcompress.measure.timing import Repeat
from mlcompress.recipe.sections import Measure
from tests.measure.models import Hands, chain, linear, parse

# Microseconds per call, 7 repeats of 12 samples each, thinned from one interleaved run on a machine with two
# cores and three other busy processes: a ResNet-14 in fp32, its int8 form, and the same fp32 file again.
FP32 = [
    [363, 240, 208, 208, 204, 207, 205, 206, 204, 209, 206, 204],
    [377, 245, 208, 210, 205, 206, 206, 205, 206, 207, 208, 204],
    [375, 242, 206, 212, 210, 209, 204, 221, 206, 242, 208, 203],
    [379, 238, 221, 212, 235, 207, 207, 206, 207, 213, 208, 205],
    [486, 209, 211, 208, 212, 209, 213, 209, 209, 207, 208, 205],
    [372, 225, 204, 205, 207, 207, 207, 208, 211, 208, 219, 204],
    [505, 238, 213, 209, 211, 222, 207, 207, 246, 228, 208, 204],
]
INT8 = [
    [256, 101, 100, 105, 100, 99, 98, 98, 99, 99, 99, 97],
    [347, 104, 101, 100, 100, 100, 100, 101, 101, 101, 101, 98],
    [374, 104, 101, 101, 100, 98, 98, 97, 98, 101, 100, 96],
    [315, 103, 99, 100, 100, 102, 101, 100, 131, 102, 100, 99],
    [242, 101, 101, 101, 103, 102, 102, 102, 103, 100, 101, 99],
    [240, 100, 101, 99, 100, 101, 100, 117, 101, 101, 102, 99],
    [348, 103, 102, 101, 99, 99, 98, 100, 98, 102, 99, 97],
]
FP32_AGAIN = [
    [486, 263, 214, 211, 206, 204, 253, 206, 205, 206, 206, 203],
    [415, 211, 207, 208, 206, 213, 228, 208, 208, 208, 208, 205],
    [370, 240, 217, 212, 207, 211, 208, 230, 202, 206, 209, 202],
    [363, 235, 207, 211, 208, 207, 209, 208, 209, 208, 209, 205],
    [360, 216, 209, 212, 212, 214, 249, 210, 213, 211, 205, 205],
    [533, 239, 208, 207, 207, 208, 210, 207, 212, 209, 211, 204],
    [371, 220, 212, 213, 208, 208, 207, 207, 208, 209, 206, 203],
]


def repeats(samples: list[list[int]], factor: float = 1.0) -> list[Repeat]:
    return [Repeat(np.asarray(one) * 1e-6 * factor, 0.0) for one in samples]


def test_int8_against_fp32_on_recorded_samples() -> None:
    found = latency.ratio(repeats(INT8), repeats(FP32))
    # By hand: minima 97/204 98/204 96/203 99/205 99/205 99/204 97/204.
    assert found.value == pytest.approx(98 / 204)
    assert (found.low, found.high) == pytest.approx((96 / 203, 99 / 204))
    assert found.p50_low < found.p50 < found.p50_high
    assert found.verdict == "faster"


def test_the_same_file_twice_is_neither_faster_nor_slower() -> None:
    assert latency.ratio(repeats(FP32_AGAIN), repeats(FP32)).verdict == "no measurable difference"
    assert latency.ratio(repeats(FP32), repeats(FP32_AGAIN)).verdict == "no measurable difference"


def test_slower_is_told() -> None:
    assert latency.ratio(repeats(FP32), repeats(INT8)).verdict == "slower"
    # A shift of 5 % is more than the spread of 1 % in these samples.
    assert latency.ratio(repeats(FP32_AGAIN, 1.05), repeats(FP32)).verdict == "slower"


def test_one_disturbed_call_does_not_move_the_ratio_of_minima() -> None:
    disturbed = [[*one[:-2], 9000, one[-1]] for one in INT8]
    calm, rough = (latency.ratio(repeats(samples), repeats(FP32)) for samples in (INT8, disturbed))
    assert rough.value == calm.value


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.97, "faster"),
        (0.5, 0.99, "no measurable difference"),  # within the 2 % that two sessions of one file can differ
        (0.5, 1.5, "no measurable difference"),  # the interval holds 1
        (1.01, 1.5, "no measurable difference"),
        (1.03, 1.5, "slower"),
    ],
)
def test_the_verdict_needs_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert Ratio(1.0, low, high, 1.0, 1.0, 1.0).verdict == verdict


def test_a_clock_too_coarse_for_the_call_gives_no_infinite_ratio() -> None:
    assert latency.ratio(repeats([[0, 0]]), repeats([[0, 0]])).value == 1.0


@pytest.fixture
def noisy_hands() -> Hands:
    """Every reading of the clock takes about 0.5 ms, 10 % up or down, whatever runs between."""
    noise = np.random.default_rng(0)
    return Hands(tick=lambda: 0.0005 * (0.9 + 0.2 * float(noise.random())))


@pytest.mark.parametrize("repeats", [1, 2])
def test_too_few_repeats_give_no_verdict(repeats: int) -> None:
    assert Ratio(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, repeats=repeats).verdict == "no measurable difference"
    assert Ratio(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, repeats=3).verdict == "faster"


def test_a_real_file_against_itself(tmp_path: Path, noisy_hands: Hands) -> None:
    path = tmp_path / "one.onnx"
    path.write_bytes(chain(3))
    feeds = {"h0": np.ones((2, 8), np.float32)}
    found = latency.compare(
        [path, path, path], feeds, Measure(repeats=5, batch_size=2), baseline=1, clock=noisy_hands.clock()
    )
    assert [one.model for one in found] == [0, 1, 2]
    assert [one.ratio.verdict for one in found] == ["no measurable difference"] * 3
    assert found[1].ratio == Ratio(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, repeats=5)
    assert latency.against(found[2], found[0]).value == pytest.approx(
        found[2].min_ms / found[0].min_ms, rel=0.05
    )
    assert {one.batch_size for one in found} == {2}
    assert all(one.executed is not None and one.executed.fallback_nodes == 0 for one in found)
    # 5 repeats x 12 rounds x ceil(5 ms / about 0.5 ms) calls
    assert found[0].calls == pytest.approx(5 * 12 * 10, rel=0.15)
    assert 0.45 <= found[0].min_ms <= found[0].p50_ms <= found[0].p90_ms <= 0.55


def test_card_figures_are_plain_numbers(noisy_hands: Hands) -> None:
    (one,) = latency.compare(
        [chain(1)], {"h0": np.ones((1, 8), np.float32)}, Measure(repeats=2), clock=noisy_hands.clock()
    )
    told = one.as_json()
    assert told["provider"] == "cpu"
    assert told["threads"] == 1
    assert told["executed"]["ops"] == {"MatMul": 1}
    assert {type(told[key]) for key in ("p50", "p90", "min", "cpu")} == {float}


def test_a_baseline_with_other_input_names_is_fed_by_order(noisy_hands: Hands) -> None:
    other = linear(np.ones((8, 8)))
    feeds = {"h0": np.ones((1, 8), np.float32)}
    found = latency.compare([chain(1), other], feeds, Measure(repeats=2), clock=noisy_hands.clock())
    assert len(found) == 2


def test_models_of_other_inputs_are_refused() -> None:
    two = parse("g (float[N, 8] a, float[N, 8] b) => (float[N, 8] y) { y = Add (a, b) }")
    with pytest.raises(ModelError, match=r"its inputs \(a, b\) are not those of the model .* \(h0\)"):
        latency.compare([chain(1), two], {"h0": np.ones((1, 8), np.float32)}, Measure(repeats=1))


def test_a_missing_provider_is_refused_and_an_optional_one_skipped(
    noisy_hands: Hands, capsys: pytest.CaptureFixture[str]
) -> None:
    feeds = {"h0": np.ones((1, 8), np.float32)}
    with pytest.raises(UnsupportedError, match="VitisAIExecutionProvider"):
        latency.compare([chain(1)], feeds, Measure(providers=["VitisAIExecutionProvider"]))
    optional = Measure(optional=["VitisAIExecutionProvider"], repeats=2)
    found = latency.compare([chain(1)], feeds, optional, clock=noisy_hands.clock())
    assert [one.provider for one in found] == ["cpu"]
    assert "VitisAIExecutionProvider" in capsys.readouterr().err


def test_strict_allows_what_ran_where_it_should(noisy_hands: Hands) -> None:
    feeds = {"h0": np.ones((1, 8), np.float32)}
    strict = Measure(strict=True, repeats=2)
    (one,) = latency.compare([chain(2)], feeds, strict, clock=noisy_hands.clock())
    assert one.executed is not None
    assert one.executed.nodes == {"CPUExecutionProvider": 2}
