"""Loading graphs with bodies, and weights that are cut in several ways."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mlcompress import graph
from mlcompress.graph.session import Level, session

HEAD = '<ir_version: 10, opset_import: ["" : 18]>'

SAME_NAMES = f"""{HEAD} net (bool c, float[n, 3] x) => (float[n, 3] y)
{{ y = If (c) <then_branch = first () => (float[n, 3] q) <float[3] v = {{1, 2, 3}}> {{ [node] q = Add (x, v) }},
              else_branch = second () => (float[n, 3] q) <float[3] v = {{5, 6, 7}}> {{ [node] q = Mul (x, v) }}> }}"""

TWO_VIEWS = f"""{HEAD} net (float[n, 2] x) => (float[n, 4] y)
<float[4, 2] m = {{1, 2, 3, 4, 5, 6, 7, 8}}, int64[1] two = {{2}}, int64[1] four = {{4}}>
{{ t = Transpose (m)  s = Concat <axis = 0> (two, four)  r = Reshape (m, s)
   a = MatMul (x, t)  b = MatMul (x, r)  y = Add (a, b) }}"""
"""The second view of `m` needs a shape that is itself computed."""


@pytest.mark.parametrize("text", [SAME_NAMES, TWO_VIEWS])
def test_loading_keeps_the_outputs(text: str, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(text)
    onnx.save(proto, tmp_path / "net.onnx")
    loaded = graph.to_bytes(graph.load(tmp_path / "net.onnx"))
    rng = np.random.default_rng(0)
    for condition in (True, False):
        feed = {"x": rng.standard_normal((2, 3 if text is SAME_NAMES else 2), dtype=np.float32)}
        if text is SAME_NAMES:
            feed["c"] = np.array(condition)
        (wanted,) = session(proto.SerializeToString(), Level.ORT_DISABLE_ALL).run(None, feed)
        (got,) = session(loaded, Level.ORT_DISABLE_ALL).run(None, feed)
        np.testing.assert_array_equal(got, wanted)


def test_nodes_of_two_bodies_get_names_of_their_own(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(SAME_NAMES), tmp_path / "net.onnx")
    names = [node.name for node in graph.load(tmp_path / "net.onnx").graph.all_nodes()]
    assert sorted(name for name in names if name) == ["If", "node", "node_1"]
