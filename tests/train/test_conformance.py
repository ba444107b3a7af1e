"""The executor on onnx's own backend tests: what it does not refuse when it is built, it computes as ONNX
defines it.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress import graph
from mlcompress.train.executor import Executor
from tests.train import conformance

SHARDS = 4
MATCHED = 0.8
"""Share of the cases of each shard that match, at least: .83 to .84 with onnx 1.23."""

WITHOUT_FORM = {
    "Bernoulli", "CausalConvWithState", "ConcatFromSequence", "DeformConv", "ImageDecoder", "LinearAttention",
    "MelWeightMatrix", "NonMaxSuppression", "Optional", "OptionalGetElement", "OptionalHasElement",
    "RandomUniformLike", "RegexFullMatch", "RoiAlign", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
    "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SplitToSequence", "StringConcat",
    "StringNormalizer", "StringSplit", "TfIdfVectorizer",
}  # fmt: skip
"""Ops of the default domain that have no function in the executor."""
REASONS = [
    r"\w+: data type (float8\w+|float4\w+|uint64|uint32|string|sequence|optional)",
    r"(Cast|CastLike): attribute (to|target_type)=(21|22|25|26) \(data type\)",
    r"(Add|Gemm|Mul): attribute broadcast=1.*",  # of opset 6
    r"BatchNormalization: (attribute is_test=1|output 1 .* is read)",
    r"DFT: attribute inverse=1 without onesided",
    r"Dropout: input training_mode is computed at run time, not constant, and so",
    r"MaxUnpool: input 2 .*",
    r"Resize: attribute coordinate_transformation_mode='align_corners' with computed scales",
    r"Scan: the form of opset 8 .*",
]
"""Refusals of ops that have one."""
LINE = re.compile(r"op (\S+) \(nodes .*?\)(?:: (.*))? has no trainable form")


@pytest.mark.parametrize("shard", range(SHARDS))
def test_cases_match_or_are_refused_when_built(shard: int) -> None:
    part = conformance.cases()[shard::SHARDS]
    outcomes = {case.name: conformance.run(case) for case in part}
    failed = {name: one for name, one in outcomes.items() if one.state in ("wrong", "raised")}
    assert failed == {}
    refused = [line for one in outcomes.values() if one.state == "refused" for line in one.text.split("\n")]
    assert [line for line in refused if not _is_known(line)] == []
    assert Counter(one.state for one in outcomes.values())["match"] >= MATCHED * len(part)


def test_no_case_is_lost() -> None:
    """1,884 of one node and 140 stored nets with onnx 1.23; so at least 1,200 match, whatever the shards."""
    names = [case.name for case in conformance.cases()]
    assert len(set(names)) == len(names) >= 1500


def _is_known(line: str) -> bool:
    found = LINE.search(line)
    if found is None:
        return False
    op, reason = found.groups()
    if reason is None:
        return op in WITHOUT_FORM or "::" in op
    return any(re.fullmatch(pattern, f"{op}: {reason}") for pattern in REASONS)


def test_cases_through_load(tmp_path: Path) -> None:
    """A sample of them, cleaned and folded as every model that a user gives."""

    def load(proto: onnx.ModelProto) -> ir.Model:
        onnx.save(proto, tmp_path / "case.onnx")
        return graph.load(tmp_path / "case.onnx")

    outcomes = {case.name: conformance.run(case, load) for case in conformance.cases()[::16]}
    assert {name: one for name, one in outcomes.items() if one.state in ("wrong", "raised")} == {}
    assert Counter(one.state for one in outcomes.values())["match"] >= 0.75 * len(outcomes)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_whole_nets_through_load(name: str) -> None:
    """Two of the nets that onnx ships without their weights, at its runner's tolerances."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    wanted = onnx.TensorProto.FromString((folder / f"light_{name}_output_0.pb").read_bytes())
    executor = Executor(graph.load(folder / f"light_{name}.onnx")).eval()
    (x,) = executor.model.graph.inputs
    image = torch.arange(3 * 224 * 224, dtype=torch.float64).reshape(1, 3, 224, 224) / (3 * 224 * 224)
    with torch.no_grad():
        (y,) = executor({str(x.name): image.float()}).values()
    np.testing.assert_allclose(y.numpy(), onnx.numpy_helper.to_array(wanted), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("spoil", [lambda y: y * 1.01, lambda y: y[1:], lambda y: y.astype(np.float64)])
def test_a_wrong_result_counts_as_wrong(spoil: object) -> None:
    case = next(case for case in conformance.cases() if case.name == "test_relu")
    ((inputs, outputs),) = case.sets
    assert conformance.run(case).state == "match"
    spoilt = conformance.Case("spoilt", case.model, [(inputs, [spoil(outputs[0])])], case.rtol, case.atol)  # type: ignore[operator]
    assert conformance.run(spoilt).state == "wrong"


def test_what_breaks_while_it_runs_counts_as_raised() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> net (float[n] x) => (float[n] y) { y = MatMul (x, x) }'
    inputs = [np.zeros((2, 3), np.float32)]
    case = conformance.Case("raises", onnx.parser.parse_model(text), [(inputs, inputs)], 0, 0)
    assert conformance.run(case).state == "raised"
