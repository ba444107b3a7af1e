from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from mlcompress.errors import DataError, ModelError
from mlcompress.measure import session as sessions
from mlcompress.measure.providers import CPU
from tests.measure.models import Hands, linear, parse

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
X = np.asarray([[1, 2], [3, 4]], np.float32)
TWO = parse(
    """g (float[N, 2] a, int64[N] b) => (float[N, 2] y) {
        c = Cast <to = 1> (b)
        d = Unsqueeze (c, ax)
        y = Add (a, d)
    }""",
    ax=np.asarray([1]),
)


def test_settings_that_every_measurement_shares() -> None:
    options = sessions.create(linear(WEIGHT), threads=1).get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.inter_op_num_threads == 1
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_files_and_bytes_give_the_same_outputs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(linear(WEIGHT))
    for model in (path, linear(WEIGHT)):
        (y,) = sessions.run(sessions.create(model), {"x": X}, "m")
        np.testing.assert_array_equal(y, X @ WEIGHT)  # small whole numbers: exact in float32


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx: no such file"):
        sessions.create(tmp_path / "gone.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"broken\.onnx: onnxruntime cannot load it"):
        sessions.create(broken)


def test_inputs_go_by_name_first() -> None:
    feeds = {"b": np.ones(2, np.int64), "a": X, "unused": X}
    assert list(sessions.feeds_for(sessions.create(TWO), feeds, "m")) == ["a", "b"]


def test_inputs_go_by_order_when_no_name_is_known() -> None:
    feeds = {"p": X, "q": np.ones(2, np.int64)}
    fed = sessions.feeds_for(sessions.create(TWO), feeds, "m")
    assert fed["a"] is feeds["p"]
    assert fed["b"] is feeds["q"]


@pytest.mark.parametrize(
    "feeds",
    [
        {"q": np.ones(2, np.int64), "p": X},  # dtypes differ in this order
        {"p": X},  # too few
        {"p": X[0], "q": np.ones(2, np.int64)},  # ranks differ
        {"a": X, "q": np.ones(2, np.int64)},  # one name is known: then the other is a mistake
    ],
)
def test_inputs_that_are_not_the_same_are_refused(feeds: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelError, match="models of one comparison take the same inputs"):
        sessions.feeds_for(sessions.create(TWO), feeds, "m")


def test_a_call_that_cannot_run_says_so_before_it_is_timed() -> None:
    with pytest.raises(DataError, match="m: cannot be run on the inputs given"):
        sessions.caller(sessions.create(linear(WEIGHT)), {"x": X[:, :1]}, CPU, "m")


def test_bound_inputs_and_outputs_give_the_same_numbers() -> None:
    session = sessions.create(linear(WEIGHT))
    binding = sessions.bind(session, {"x": X}, "cpu")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X @ WEIGHT)


def test_copies_are_the_time_before_and_after_the_run() -> None:
    # Four readings a round: 1 tick to copy in, 1 for the run, which does not count, 1 to copy out.
    hands = Hands(tick=lambda: 0.25)
    session = sessions.create(linear(WEIGHT))
    assert sessions.copy_seconds(session, {"x": X}, "cpu", hands.read) == pytest.approx(0.5)
