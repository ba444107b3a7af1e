from typing import Any

import numpy as np
import pytest

from mlcompress.errors import DataError, ModelError, UnsupportedError
from mlcompress.measure import executed
from mlcompress.measure.executed import Executed
from tests.measure.models import chain, parse

OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"


def kernel(name: str, op: str, provider: str, ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": op, "provider": provider}}


PROFILE = [
    {"cat": "Session", "name": "model_loading_uri", "ts": 1, "dur": 5},
    {"cat": "Session", "name": "model_run", "ts": 10, "dur": 500},
    kernel("a_kernel_time", "Conv", CPU, 11, 400),
    {"cat": "Session", "name": "model_run", "ts": 600, "dur": 50},
    kernel("sub_0_kernel_time", "subgraph_1", OPENVINO, 601, 30),
    kernel("b_kernel_time", "Softmax", CPU, 640, 6),
    kernel("c_kernel_time", "Softmax", CPU, 647, 4),
    kernel("c_fence_before", "Softmax", CPU, 646, 1),
]
"""Two runs as onnxruntime writes them; the first is the warm-up."""


def test_only_kernels_of_the_last_run_count() -> None:
    ran = executed.summarise(PROFILE, OPENVINO)
    assert ran.nodes == {CPU: 2, OPENVINO: 1}
    assert ran.ops == {"Softmax": 2, "subgraph_1": 1}
    assert ran.kernel_ms == pytest.approx({CPU: 0.010, OPENVINO: 0.030})
    assert ran.names == {"sub_0", "b", "c"}


def test_fallback_is_what_ran_on_another_provider() -> None:
    assert executed.summarise(PROFILE, OPENVINO).fallback_nodes == 2
    assert executed.summarise(PROFILE, CPU).fallback_nodes == 1
    # onnxruntime runs everything on the CPU where a provider takes no node at all.
    assert executed.summarise(PROFILE, "CUDAExecutionProvider").fallback_nodes == 3


def test_strict_names_the_provider_that_ran_the_nodes() -> None:
    with pytest.raises(UnsupportedError) as problem:
        executed.refuse_fallback(executed.summarise(PROFILE, OPENVINO), "openvino", "m.onnx")
    assert str(problem.value) == (
        "m.onnx: 2 of 3 nodes ran on CPUExecutionProvider and not on openvino; "
        "set measure.strict to false to allow that"
    )
    executed.refuse_fallback(Executed(CPU, {CPU: 3}, {}, {}, frozenset()), "cpu", "m.onnx")


def test_profile_counts_the_nodes_of_one_inference() -> None:
    ran = executed.profile(chain(5), {"h0": np.ones((3, 8), np.float32)})
    assert ran.nodes == {CPU: 5}
    assert ran.ops == {"MatMul": 5}
    assert ran.fallback_nodes == 0
    assert ran.kernel_ms[CPU] > 0


def test_nodes_in_a_loop_count_as_often_as_they_run() -> None:
    model = parse(
        """g (float[2] x) => (float[2] y)
        <int64 trip = {4}, bool go = {1}> {
            y = Loop (trip, go, x) <body = b (int64 i, bool c, float[2] s) => (bool c_out, float[2] s_out) {
                c_out = Identity (c)
                s_out = Relu (s)
            }>
        }"""
    )
    ran = executed.profile(model, {"x": np.ones(2, np.float32)})
    assert ran.ops["Relu"] == 4
    assert ran.ops["Loop"] == 1


def test_folded_constants_do_not_run() -> None:
    model = parse(
        "g (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}> { a = Exp (w)  y = Mul (x, a) }"
    )
    ran = executed.profile(model, {"x": np.ones((1, 2), np.float32)})
    assert ran.ops == {"Mul": 1}


def test_integer_kernels_of_a_quantised_graph() -> None:
    # U8 activations and S8 weights between Q/DQ: onnxruntime fuses DQ -> MatMul -> Q into one integer MatMul.
    model = parse(
        """g (float[N, 4] x) => (float[N, 4] y)
        <float s = {0.1}, uint8 z = {128}, float ws = {0.1}, int8 wz = {0}> {
            xq = QuantizeLinear (x, s, z)
            xd = DequantizeLinear (xq, s, z)
            wd = DequantizeLinear (wq, ws, wz)
            p = MatMul (xd, wd)
            pq = QuantizeLinear (p, s, z)
            y = DequantizeLinear (pq, s, z)
        }""",
        wq=np.arange(16, dtype=np.int8).reshape(4, 4),
    )
    ran = executed.profile(model, {"x": np.ones((1, 4), np.float32)})
    assert ran.ops == {"DequantizeLinear": 1, "QLinearMatMul": 1, "QuantizeLinear": 1}
    assert executed.INTEGER_OPS & set(ran.ops) == {"QLinearMatMul"}
    plain = executed.profile(chain(1), {"h0": np.ones((1, 8), np.float32)})
    assert not executed.INTEGER_OPS & set(plain.ops)


def test_inputs_that_the_model_refuses() -> None:
    with pytest.raises(DataError, match="cannot be run on the inputs given"):
        executed.profile(chain(1), {"h0": np.ones((1, 9), np.float32)})
    with pytest.raises(ModelError, match="model in memory: onnxruntime cannot load it"):
        executed.profile(b"nonsense", {})
