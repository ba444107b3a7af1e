"""Half the layers of a sentence encoder, from unlabelled texts alone and without model code.

    python benchmarks/distill_minilm.py MODEL.onnx [--folder FOLDER] [--epochs 80] [--held 100]

MODEL is MiniLM-L6 as FOLDER/models/make_models.py exports it: `ids` and `mask` [N, T] -> `sentence` [N, 384].
FOLDER holds data/minilm-tweets.npz and data/minilm-movies.npz, 800 texts each, of which the first `held` of a
seeded order are kept back to judge on. The student has layers 0, 3 and 5 and learns the teacher's sentence
vectors and token states, on texts spliced from two with some random words. Prints one JSON line: mean cosine
to the teacher's vectors of the held texts, and latency at 64 tokens, student / teacher. Exit status 1 when
LIMITS are missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
LIMITS = {"cosine": 0.93, "latency": 0.60}
RECIPE = """
version: 1
data:
  train: {path: train.npz, inputs: {ids: ids, mask: mask}}
  evaluate: {path: held.npz}
distill:
  student: {depth: 0.5}
  losses:
    - {name: cosine}
    - {name: hint, teacher: layer_norm_12, mask: mask, weight: 1.0}
    - {name: hint, teacher: layer_norm_8, mask: mask, weight: 0.5}
    - {name: hint, teacher: layer_norm_2, mask: mask, weight: 0.5}
train:
  epochs: EPOCHS
  batch_size: 32
  threads: 1
  validation: 0
  augment: [{splice: mask}, {replace: {input: ids, mask: mask, share: 0.2, tokens: [1000, 30522]}}]
  freeze: [embeddings.word_embeddings.weight]
  optimizer: {name: adamw, lr: 5.0e-4}
evaluate: {metric: cosine}
measure: {shapes: {ids: [1, 64], mask: [1, 64]}}
"""


def prepare(source: Path, folder: Path, held: int) -> None:
    """Write train.npz and held.npz: `held` texts of each file are not trained on."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[dict[str, np.ndarray]]] = {"train": [], "held": []}
    for name in ("tweets", "movies"):
        with np.load(source / "data" / f"minilm-{name}.npz") as file:
            texts = {key: file[key] for key in ("ids", "mask")}
        order = rng.permutation(len(texts["ids"]))
        for part, chosen in (("held", order[:held]), ("train", order[held:])):
            parts[part].append({key: array[np.sort(chosen)] for key, array in texts.items()})
    for part, found in parts.items():
        whole = {key: np.concatenate([one[key] for one in found]) for key in ("ids", "mask")}
        np.savez(folder / f"{part}.npz", **whole)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, default=SHARED)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--held", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(chosen.folder, folder, chosen.held)
        (folder / "recipe.yaml").write_text(RECIPE.replace("EPOCHS", str(chosen.epochs)))
        model = str(chosen.model.resolve())
        command = [sys.executable, "-m", "mlcompress", "distill", model, "-r", "recipe.yaml", "-o", "s.onnx"]
        subprocess.run(command, cwd=folder, check=True)
        card = json.loads((folder / "s.onnx.json").read_text())
    found = {"cosine": card["metric"]["after"], "latency": card["latency"][0]["ratio"]}
    student = card["change"]["details"]["student"]
    facts = {"epochs": chosen.epochs, "layers": student["layers_kept"], "params": student["params"]}
    print(json.dumps({**facts, **found, "limits": LIMITS}))
    return int(found["cosine"] < LIMITS["cosine"] or found["latency"] > LIMITS["latency"])


if __name__ == "__main__":
    sys.exit(main())
