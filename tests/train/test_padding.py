"""Losses on sequences leave out padding, in student and teacher alike."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.train.batches import TorchBatch
from mlcompress.train.losses import entry
from mlcompress.train.objective import Objective

TOKENS = """
<ir_version: 10, opset_import: ["" : 18]>
sequence (float[batch, 5, 3] x, int64[batch, 5] mask) => (float[batch, 2] logits)
<float[3, 4] w = {1, 0, 2, -1, 0, 1, 1, 1, 2, 1, 0, 1}, float[4, 2] v = {1, 0, 0, 1, 1, 1, 2, 0}, int64[1] tokens = {1}>
{ hidden = MatMul (x, w)
  counted = Cast <to = 1> (mask)
  column = Unsqueeze (counted, last)
  kept = Mul (hidden, column)
  pooled = ReduceSum <keepdims = 0> (kept, tokens)
  logits = MatMul (pooled, v) }
"""


def tokens() -> ir.Model:
    proto = onnx.parser.parse_model(TOKENS.replace("tokens = {1}>", "tokens = {1}, int64[1] last = {2}>"))
    return ir.from_proto(proto)


def sentences() -> Dataset:
    rng = np.random.default_rng(0)
    mask = (np.arange(5) < rng.integers(1, 6, 64)[:, None]).astype(np.int64)
    return from_arrays({"x": rng.normal(size=(64, 5, 3)).astype(np.float32), "mask": mask})


@pytest.mark.parametrize("name", ["hint", "contrastive"])
def test_padding_counts_for_nothing(name: str) -> None:
    """Whatever stands in padded places, a masked loss is the same; without the mask it is not."""
    batch = sentences().take(np.arange(8))
    inputs = {key: torch.from_numpy(value) for key, value in batch.inputs.items()}
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 5, 4, generator=generator) for _ in range(2))
    padded = inputs["mask"][:, :, None] == 0
    values = []
    for mask, filling in (("mask", 0.0), ("mask", 9.0), (None, 0.0), (None, 9.0)):
        made = Objective([entry(name, teacher="hidden", mask=mask)], tokens(), tokens(), where="x")
        given = [
            torch.where(padded, filling * scale, value) for value, scale in ((student, 1), (teacher, -1))
        ]
        made.taught_by(lambda _, other=given[1]: {"hidden": other})
        ready = TorchBatch(inputs, None, torch.arange(8))
        made.prepare({"hidden": given[0]}, ready, samples=8, seed=0)
        values.append(made({"hidden": given[0]}, ready).item())
    assert values[0] == pytest.approx(values[1], rel=1e-6)  # float32
    assert values[2] != pytest.approx(values[3], rel=1e-2)
