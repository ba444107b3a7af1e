"""Dropout drops when the executor trains, whatever the file says, and its mask says what."""

import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress.train.executor import Executor

TEXT = """<ir_version: 8, opset_import: ["" : 18]> net (float[n] x{extra}) => (float[n] y, bool[n] kept)
<float ratio = {{0.25}}, bool on = {{1}}> {{ y, kept = Dropout (x, {inputs}) }}"""


@pytest.mark.parametrize("inputs", ["ratio, on", "ratio", "given"])
def test_mask(inputs: str) -> None:
    """A ratio may also be computed while it runs."""
    extra = ", float given" if inputs == "given" else ""
    executor = Executor(ir.from_proto(onnx.parser.parse_model(TEXT.format(inputs=inputs, extra=extra))))
    feed = {"x": torch.linspace(1, 2, 4000), "given": torch.tensor(0.25)}
    resting = executor.eval()(feed)
    assert torch.equal(resting["y"], feed["x"])
    assert bool(resting["kept"].all())
    torch.manual_seed(0)
    trained = executor.train()(feed)
    assert torch.equal(trained["y"] != 0, trained["kept"])
    torch.testing.assert_close(trained["y"], feed["x"] * trained["kept"] / 0.75, rtol=1e-6, atol=0)
    # 4,000 draws: the share of a quarter has a standard deviation of .007
    assert 0.22 < 1 - trained["kept"].float().mean() < 0.28
