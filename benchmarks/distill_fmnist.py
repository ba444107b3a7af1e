"""What does the teacher add? A ResNet-14 on Fashion-MNIST and a student of half its width.

    python benchmarks/distill_fmnist.py [--folder FOLDER] [--epochs N] [--seeds 3] [--small]
                                        [--weights inherit fresh]

FOLDER holds models/fmnist-resnet14-bn.onnx and data/fashion-mnist-*.npz. All 60,000 training images are
read where the Debian package dataset-fashion-mnist is installed (16 epochs; a seeded tenth of them chooses
one), else, or with --small, the 12,000 of FOLDER (8 epochs; val2k chooses). For each seed the student is
trained by `mlcompress distill` with the teacher (0.9 soft, T 4, and 0.1 hard) and by the labels alone, from
inherited weights and from fresh ones; top-1 is that of the 10,000 test images, which choose nothing. Prints
one JSON line; exit status 1 when the inherited student loses more than LIMITS allow.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
PACKAGE = Path("/usr/share/datasets/fashion-mnist")
LIMITS = {60_000: 0.002, 12_000: 0.007}
"""Training images -> the most that the student may lose to its teacher."""
EPOCHS = {60_000: 16, 12_000: 8}
SOFT = "[{name: soft, temperature: 4.0, weight: 0.9}, {name: hard, weight: 0.1}]"
LOSSES = {"teacher": SOFT, "labels": "[{name: hard}]"}
RECIPE = """
version: 1
data:
  train:
    path: train.npz
    inputs: {image: x}
    label: y
    transforms: [{scale: 0.00392157}, {normalize: {mean: [0.2860], std: [0.3530]}}, {layout: NCHW}]
VALIDATION  evaluate: {path: test.npz}
distill:
  student: {width: 0.5, weights: WEIGHTS}
  losses: LOSSES
train:
  epochs: EPOCHS
  threads: 1
  optimizer: {name: sgd, lr: RATE}
"""
RATES = {"inherit": 0.05, "fresh": 0.1}


def whole() -> tuple[np.ndarray, np.ndarray]:
    """The training images uint8 [60000, 28, 28] and labels of the Debian package."""
    with gzip.open(PACKAGE / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(PACKAGE / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return images, labels


def prepare(source: Path, folder: Path, *, small: bool) -> int:
    """Write train.npz, test.npz and with the few images val.npz; how many training images there are."""
    files = {"train": "train12k", "val": "val2k", "test": "test10k"}
    parts = {}
    for name, part in files.items():
        with np.load(source / "data" / f"fashion-mnist-{part}.npz") as file:
            parts[name] = file["x"], file["y"]
    if PACKAGE.is_dir() and not small:
        parts["train"] = whole()
        del parts["val"]  # it is part of the 60,000
    for name, (x, y) in parts.items():
        np.savez(folder / f"{name}.npz", x=x, y=y)
    return len(parts["train"][0])


def run(teacher: Path, folder: Path, weights: str, losses: str, epochs: int, seed: int) -> dict[str, float]:
    """top-1 of teacher and student on the test images."""
    text = RECIPE.replace("LOSSES", LOSSES[losses]).replace("EPOCHS", str(epochs))
    validation = "  validation: {path: val.npz}\n" if (folder / "val.npz").is_file() else ""
    text = text.replace("VALIDATION", validation)
    text = text.replace("WEIGHTS", weights).replace("RATE", str(RATES[weights]))
    (folder / "recipe.yaml").write_text(text)
    command = [
        sys.executable,
        "-m",
        "mlcompress",
        "distill",
        str(teacher),
        "-r",
        "recipe.yaml",
        "-o",
        "s.onnx",
    ]
    subprocess.run([*command, "--set", f"seed={seed}"], cwd=folder, check=True)
    metric = json.loads((folder / "s.onnx.json").read_text())["metric"]
    print(f"{weights}, {losses}, seed {seed}: {metric['after']:.4f}", file=sys.stderr, flush=True)
    return {"before": metric["before"], "after": metric["after"]}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=SHARED)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--weights", nargs="+", choices=RATES, default=[*RATES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="train on the 12,000 images of FOLDER")
    chosen = parser.parse_args()
    teacher = chosen.folder.resolve() / "models" / "fmnist-resnet14-bn.onnx"
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = prepare(chosen.folder, folder, small=chosen.small)
        before = 0.0
        epochs = chosen.epochs or EPOCHS[count]
        for weights in chosen.weights:
            for losses in LOSSES:
                rows = [run(teacher, folder, weights, losses, epochs, seed) for seed in range(chosen.seeds)]
                before = rows[0]["before"]
                found[f"{weights}, {losses}"] = [row["after"] for row in rows]
    drops = {weights: before - mean(found[f"{weights}, teacher"]) for weights in chosen.weights}
    gains = {
        weights: mean(found[f"{weights}, teacher"]) - mean(found[f"{weights}, labels"])
        for weights in chosen.weights
    }
    facts = {"images": count, "epochs": epochs, "teacher": before, "students": found}
    print(json.dumps({**facts, "gain_of_teacher": gains, "drop": drops, "most": LIMITS[count]}))
    return int(drops.get("inherit", 0) > LIMITS[count])


if __name__ == "__main__":
    sys.exit(main())
