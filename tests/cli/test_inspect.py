"""`mlcompress inspect`. Oracles: counts made by hand from how the nets are built.

One test runs the program in a process of its own; the others run its entry point, since importing torch takes
seconds.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlcompress.cli.app import _status
from tests import task

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'
IMAGE = 6


def stored_net() -> onnx.ModelProto:
    """Conv 3x3 of 1 -> 32 (fp32), Relu, Conv 1x1 of 32 -> 8 (int8 times a scale), pooled, Gemm 8 -> 4 (fp16)."""
    rng = np.random.default_rng(0)
    net = onnx.parser.parse_graph(
        """net (float[batch, 1, 6, 6] image) => (float[batch, 4] logits) {
            [stem] stem_out = Conv<pads = [1, 1, 1, 1]>(image, stem.w, stem.b)
            [act] act_out = Relu(stem_out)
            mid.f = Cast<to = 1>(mid.q)
            mid.w = Mul(mid.f, mid.s)
            [mid] mid_out = Conv(act_out, mid.w)
            [pool] pooled = GlobalAveragePool(mid_out)
            [flat] features = Flatten(pooled)
            head.w = Cast<to = 1>(head.half)
            [head] logits = Gemm(features, head.w)
        }""".replace("stem.", "stem_")
        .replace("mid.", "mid_")
        .replace("head.", "head_")
    )
    stored = {
        "stem_w": rng.standard_normal((32, 1, 3, 3)).astype(np.float32),
        "stem_b": rng.standard_normal(32).astype(np.float32),
        "mid_q": rng.integers(-127, 128, (8, 32, 1, 1)).astype(np.int8),
        "mid_s": rng.uniform(0.1, 1, (8, 1, 1, 1)).astype(np.float32),
        "head_half": rng.standard_normal((8, 4)).astype(np.float16),
    }
    net.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    made = helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(made, {"author": "somebody", "licence": "https://example.com/licence"})
    return made


QUANTIZED = """net (float[N, 4] x) => (float[N, 2] y)
    <int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float s = {0.5}, uint8 u = {3}, int8 z = {0}> {
    q = QuantizeLinear(x, s, u)
    d = DequantizeLinear(q, s, u)
    e = DequantizeLinear(w, s, z)
    [product] y = MatMul(d, e)
}"""
BRANCHES = """net (float[N, 4] x, bool c) => (float[N, 4] y) <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> {
    [product] h = MatMul(x, w)
    [choice] y = If (c) <then_branch = t () => (float[N, 4] a) { a = Relu(h) },
                         else_branch = e () => (float[N, 4] b) { b = Neg(h) }>
}"""
CONTRIB = """net (float[N, 4] x) => (float[N, 4] y) { [odd] h = com.microsoft.FastGelu(x)  y = Relu(h) }"""


Told = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class Done:
    """How a run of the program ended."""

    status: int
    stdout: str
    stderr: str


def run(path: Path, *arguments: str) -> Done:
    """`mlcompress inspect PATH ...`, run beside the file."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(path.parent), redirect_stdout(out), redirect_stderr(err):
        status = _status(["inspect", str(path), *arguments])
    return Done(int(status), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """`told(name)`: the JSON of one of the nets, each asked for once."""
    folder = tmp_path_factory.mktemp("inspect")

    @cache
    def of(name: str) -> dict[str, Any]:
        texts = {"quantized": QUANTIZED, "branches": BRANCHES}
        header = HEADER.replace("18]", '18, "com.microsoft" : 1]') if name == "contrib" else HEADER
        proto = (
            stored_net() if name == "stored" else onnx.parser.parse_model(header + texts.get(name, CONTRIB))
        )
        path = folder / f"{name}.onnx"
        onnx.save(proto, path)
        before = sorted(folder.iterdir())
        done = run(path, "--json")
        assert done.status == 0, done.stderr
        assert sorted(folder.iterdir()) == before
        return json.loads(done.stdout)

    return of


def test_signature_costs_and_stored_forms(told: Told) -> None:
    facts = told("stored")
    assert facts["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 1, IMAGE, IMAGE]}]
    assert facts["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 4]}]
    assert facts["operator_sets"] == {"": 18}
    assert facts["metadata"] == {"author": "somebody", "licence": "https://example.com/licence"}
    pixels = IMAGE * IMAGE
    assert facts["params"] == 32 * 9 + 32 + 8 * 32 + 8 * 4
    assert facts["macs"] == pixels * 32 * 9 + pixels * 8 * 32 + 8 * 4
    assert facts["bytes"] == 4 * facts["params"]
    assert facts["stored_bytes"] == 4 * (32 * 9 + 32) + (8 * 32 + 4 * 8) + 2 * 8 * 4
    layers = {row["name"]: row for row in facts["layers"]}
    assert [(n, r["stored"], r["bytes"], r["macs"]) for n, r in layers.items()] == [
        ("stem", "fp32", 4 * 32 * 9, pixels * 32 * 9),
        ("mid", "int8", 8 * 32 + 4 * 8, pixels * 8 * 32),
        ("head", "fp16", 2 * 8 * 4, 8 * 4),
    ]
    assert layers["mid"]["weight"] == "mid_w"
    assert layers["mid"]["shape"] == [8, 32, 1, 1]


def test_tensors_that_a_recipe_can_name(told: Told) -> None:
    rows = {row["name"]: row for row in told("stored")["tensors"]}
    assert list(rows) == ["image", "stem_out", "act_out", "mid_out", "pooled", "features", "logits"]
    assert rows["act_out"]["shape"] == ["batch", 32, IMAGE, IMAGE]
    assert rows["features"]["shape"] == ["batch", 8]
    assert (rows["act_out"]["node"], rows["act_out"]["op"], rows["act_out"]["dtype"]) == (
        "act",
        "Relu",
        "float32",
    )
    assert [name for name, row in rows.items() if row["output"]] == ["logits"]


def test_families_hold_what_goes_with_their_units(told: Told) -> None:
    facts = told("stored")
    assert [(row["name"], row["kind"], row["units"], row["exact"]) for row in facts["families"]] == [
        ("stem_w", "channel", 32, True),
        ("mid_w", "channel", 8, True),
    ]
    assert [row["params"] for row in facts["families"]] == [32 * 9 + 32 + 8 * 32, 8 * 32 + 8 * 4]
    assert facts["families"][0]["tensors"] == ["stem_w", "stem_b", "mid_w"]
    assert facts["frozen"] == [{"node": "logits", "op": "output", "reason": "an output of the graph"}]


def test_a_float_net_can_go_through_every_stage(told: Told) -> None:
    stages = told("stored")["stages"]
    assert all(stage["possible"] and not stage["why_not"] for stage in stages.values()), stages
    assert stages["distill"]["narrowable_units"] == 40
    assert stages["prune channels"] == {
        "possible": True, "why_not": [], "families": 2, "exact_families": 2, "units": 40, "frozen": 0
    }  # fmt: skip
    assert (stages["prune elements"]["tensors"], stages["prune elements"]["weights"]) == (3, 288 + 256 + 32)
    assert [row["node"] for row in stages["quantize dynamic"]["left_in_float"]] == ["stem", "mid"]
    assert stages["quantize dynamic"]["can_run_as_integers"] == 1


def test_a_quantised_net_says_why_it_cannot_be_quantised_again(told: Told) -> None:
    facts = told("quantized")
    for mode in ("static", "dynamic", "weight_only"):
        stage = facts["stages"][f"quantize {mode}"]
        assert not stage["possible"]
        assert "quantised already (DequantizeLinear x 2, QuantizeLinear x 1)" in stage["why_not"][0]
    assert facts["layers"][0]["stored"] == "int8"
    assert not facts["stages"]["prune elements"]["possible"]


def test_control_flow_cannot_be_written_as_torchscript(told: Told) -> None:
    facts = told("branches")
    stage = facts["stages"]["write TorchScript"]
    assert not stage["possible"]
    assert "If (nodes choice)" in stage["why_not"][0]
    assert {row["node"] for row in facts["frozen"]} >= {"choice"}
    assert not facts["stages"]["prune channels"]["possible"]
    left = facts["stages"]["quantize dynamic"]["left_in_float"]
    assert left == [{"node": "choice", "reason": "layers inside If are left as they are"}]


def test_an_op_that_cannot_be_trained_is_named(told: Told) -> None:
    facts = told("contrib")
    assert not facts["stages"]["distill"]["possible"]
    assert facts["stages"]["distill"]["why_not"] == facts["cannot_train"]
    assert "FastGelu" in facts["cannot_train"][0]


def test_text_names_everything_whole(tmp_path: Path) -> None:
    name = "a/very/long/name.of[a]/tensor/" * 5 + "end"
    proto = stored_net()
    for node in proto.graph.node:
        node.output[:] = [name if value == "act_out" else value for value in node.output]
        node.input[:] = [name if value == "act_out" else value for value in node.input]
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    done = subprocess.run(
        [sys.executable, "-m", "mlcompress", "inspect", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    for section in (
        "Layers",
        "Tensors that a recipe can name",
        "Prunable families",
        "What each stage can do",
    ):
        assert section in done.stdout
    rows = done.stdout.partition("Tensors that a recipe can name")[2].partition("Prunable")[0].splitlines()
    column = next(row for row in rows if "made by" in row).index("made by")
    assert name in "".join(row[:column].strip() for row in rows)  # folded over lines, never cut
    assert "[batch 32 6 6]" in done.stdout
    assert max(map(len, done.stdout.partition("Layers")[2].splitlines())) <= 120
    assert done.stderr == ""


def test_long_tables_end_and_say_how_to_see_the_rest(tmp_path: Path) -> None:
    chain = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"r{i}") for i in range(60)]
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("v0", "v60")]
    net = helper.make_graph(chain, "net", shown[:1], shown[1:])
    path = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    short, whole = run(path).stdout, run(path, "--all").stdout
    assert "... 21 more (20 Relu, 1 Relu, an output, ...): --all or --json" in short
    assert " v50 " not in short
    assert " v50 " in whole
    assert "--json" not in whole


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"", (), "net.onnx: is empty"),
        (b"garbage \xff", (), "net.onnx: "),
        (None, ("-r", "none.yaml"), "none.yaml"),
        (None, ("-r", "bad.yaml"), "factry"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes | None, arguments: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(stored_net().SerializeToString() if content is None else content)
    (tmp_path / "bad.yaml").write_text("model: {factry: x}\n")
    done = run(path, *arguments)
    assert done.status == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_weights_without_a_graph_take_the_recipe_of_any_stage(tmp_path: Path) -> None:
    """A state dict with its factory; `--no-code` refuses the latter."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "linear.pt")
    (tmp_path / "inspected_nets.py").write_text(
        "import torch\ndef linear():\n    return torch.nn.Linear(3, 2)\n"
    )
    section = "model: {factory: 'inspected_nets:linear', inputs: {x: {shape: [batch, 3]}}, outputs: [y]}\n"
    (tmp_path / "r.yaml").write_text(section + "prune: {ratio: 0.5}\n")
    done = run(tmp_path / "linear.pt", "-r", "r.yaml", "--json")
    assert done.status == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["params"] == 3 * 2 + 2
    assert [t["name"] for t in facts["inputs"] + facts["outputs"]] == ["x", "y"]
    refused = run(tmp_path / "linear.pt", "-r", "r.yaml", "--no-code")
    assert refused.status == 2
    assert "--no-code" in refused.stderr


def sensitivity_recipe(folder: Path, text: str) -> str:
    """Samples of the small task, and a recipe on them."""
    task.save_samples(folder / "c.npz", 48, seed=2)
    task.save_samples(folder / "v.npz", 100, seed=3)
    path = folder / "q.yaml"
    path.write_text(text)
    return str(path)


DATA = "data: {calibration: {path: c.npz}, evaluate: {path: v.npz, label: y}}\nevaluate: {metric: top1}\n"


def test_sensitivity_of_layers(tmp_path: Path) -> None:
    """The layer that costs most comes first; `skip` is left out."""
    onnx.save(task.solved(), tmp_path / "net.onnx")
    text = DATA + "skip: [/top]\nquantize: {weights: {scheme: int4}}\n"
    recipe = sensitivity_recipe(tmp_path, text)
    done = run(tmp_path / "net.onnx", "--sensitivity", "-r", recipe, "--json")
    assert done.status == 0, done.stderr
    rows = json.loads(done.stdout)["sensitivity"]
    assert {(row["node"], row["op"]) for row in rows} == {
        ("/stem", "Conv"),
        ("/body", "Conv"),
        ("/fc", "Gemm"),
    }
    ratios = [row["snr_db"] for row in rows]
    assert ratios == sorted(ratios)
    # The last layer is a ridge regression with weights of -16 ... 16 that cancel: 15 levels are too few for it.
    assert rows[0]["node"] == "/fc"
    assert rows[0]["drop"] > 0.05 > abs(rows[-1]["drop"])
    assert ratios[-1] > ratios[0] + 6
    shown = run(tmp_path / "net.onnx", "--sensitivity", "-r", recipe)
    lines = shown.stdout[shown.stdout.index("Sensitivity") :].splitlines()
    assert [line.split()[0] for line in lines[2:5]] == [row["node"] for row in rows]
    assert f"{ratios[0]:.1f}" in lines[2]
    assert "Prunable families" not in shown.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "--sensitivity: is measured on the data of a recipe of quantize"),
        ("quantize: {}\n", "data.calibration: --sensitivity is measured on samples"),
        (DATA + "quantize: {mode: dynamic}\n", "use a recipe of `mode: static`"),
        (DATA + "quantize: {activations: {scheme: float}}\n", "quantize.activations float"),
        ("prune: {ratio: 0.5}\n", "prune: unknown key"),
    ],
)
def test_what_sensitivity_needs(tmp_path: Path, text: str | None, told: str) -> None:
    onnx.save(task.net(), tmp_path / "net.onnx")
    given = [] if text is None else ["-r", sensitivity_recipe(tmp_path, text)]
    done = run(tmp_path / "net.onnx", "--sensitivity", *given)
    assert done.status == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_sensitivity_of_a_quantised_model_is_refused(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(HEADER + QUANTIZED), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 4), np.float32))
    (tmp_path / "q.yaml").write_text("data: {calibration: {path: x.npz}}\nquantize: {}\n")
    done = run(tmp_path / "net.onnx", "--sensitivity", "-r", str(tmp_path / "q.yaml"))
    assert done.status == 2
    assert "quantised already" in done.stderr
