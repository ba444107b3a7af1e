"""The recipe for texts: a sentence encoder at half its layers, by the command line that the recipe opens with."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from mlcompress.cli.app import _status
from mlcompress.exits import Exit
from tests.conftest import ROOT

WORDS, D, T = 60, 16, 12


def encoder() -> onnx.ModelProto:
    """Four layers LN(x + relu(x w) v), and the mean of the tokens that count; `ids`, `mask` [n, t] -> `sentence` [n, 16].

    In each layer a token also sees the mean of the text, so that its state says something of the others.
    """
    body, x = (
        ["x = Gather(embeddings, ids) counted = Cast<to=1>(mask) column = Unsqueeze(counted, last)"],
        "x",
    )
    body += ["count = ReduceSum<keepdims=1>(column, tokens)"]
    for n in range(4):
        end = "hidden" if n == 3 else f"x{n}"
        body += [
            f"k{n} = Mul({x}, column) s{n} = ReduceSum<keepdims=1>(k{n}, tokens) m{n} = Div(s{n}, count)"
        ]
        body += [
            f"j{n} = Add({x}, m{n}) e{n} = MatMul(j{n}, w{n}) r{n} = Relu(e{n}) d{n} = MatMul(r{n}, v{n})"
        ]
        body += [f"t{n} = Add({x}, d{n}) {end} = LayerNormalization(t{n}, g{n})"]
        x = end
    body += ["kept = Mul(hidden, column) total = ReduceSum<keepdims=0>(kept, tokens)"]
    body += ["flat = ReduceSum<keepdims=0>(column, tokens) sentence = Div(total, flat)"]
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> f (int64[n, t] ids, int64[n, t] mask) => (float[n, 16] sentence)'
        f" <int64[1] last = {{2}}, int64[1] tokens = {{1}}> {{ {' '.join(body)} }}"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {"embeddings": rng.normal(size=(WORDS, D))}
    for n in range(4):
        arrays |= {
            f"w{n}": rng.normal(size=(D, 32)) / 4,
            f"v{n}": rng.normal(size=(32, D)) / 8,
            f"g{n}": np.ones(D),
        }
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return proto


def texts(count: int, seed: int, length: int = T) -> dict[str, np.ndarray]:
    """Words 2 ... 59 between 0 and 1, as a tokenizer puts its marks, and 0 at padding."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, length + 1, count)[:, None]
    place = np.arange(length)
    ids = np.where(place == lengths - 1, 1, rng.integers(2, WORDS, (count, length)))
    mask = place < lengths
    return {"ids": np.where(mask & (place > 0), ids, 0), "mask": mask.astype(np.int64)}


def vectors(path: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feeds)[0]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_recipe_for_texts(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    recipe = shutil.copy(ROOT / "recipes" / "distill-texts.yaml", tmp_path)
    onnx.save(encoder(), "encoder.onnx")
    np.savez("texts.npz", **texts(200, 1))
    np.savez("held.npz", **texts(100, 2))
    arguments = Path(recipe).read_text().splitlines()[0].removeprefix("# mlcompress ").split()
    for override in (
        "train.epochs=20",
        "train.threads=1",
        f"train.augment.1.replace.tokens=[2, {WORDS}]",
        "measure.repeats=1",
        "train.optimizer.lr=0.003",
        "measure.shapes={ids: [1, 12], mask: [1, 12]}",
    ):
        arguments += ["--set", override]
    assert _status([*arguments, "--quiet"]) == Exit.DONE
    card = json.loads(Path("student.onnx.json").read_text())
    details = card["change"]["details"]
    assert details["student"]["layers_kept"] == ["x0", "hidden"]
    assert details["student"]["reconstructed"]
    assert details["frozen"] == ["embeddings"]
    assert not details["teacher_cache"]
    assert details["teacher_online"] == "train.augment makes every sample new"
    before, after = (onnx.load(path) for path in ("encoder.onnx", "student.onnx"))
    kept = [
        next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "embeddings")
        for model in (before, after)
    ]
    np.testing.assert_array_equal(*kept)
    longer = texts(100, 3, length=20)  # lengths stay free
    cosine = (vectors("student.onnx", longer) * vectors("encoder.onnx", longer)).sum(1).mean()
    assert cosine > 0.98  # .990; the layers as they were gave .486, fitted without training .975
