"""What a teacher costs per epoch: cached answers and online ones, against the student's own training.

    flock LOCK python benchmarks/distill_cache.py [--rounds 5] [--samples 2560]

One thread, batch 128, three ways of training one student interleaved in one process, an epoch each a round:
`hard` (labels alone), `cached` (soft and hard, answers kept on disk by sample id) and `online` (the same,
with the teacher run on every batch). Seconds are CPU time from the first optimizer step to the last; ratios
are taken within a round, and the median over the rounds is held against the limits. The teacher is a
ResNet-14 for 28x28 pictures; the students are its own graph at a quarter of the width, and at the width that
leaves a fifth of the parameters. It comes from ../shared/models; without that folder a stack of convolutions
takes its place.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir

from mlcompress import checkpoint, graph
from mlcompress.context import Context
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.distill.recipe import StudentSection
from mlcompress.distill.student import make_student
from mlcompress.recipe.sections import Evaluate
from mlcompress.recipe.train import TrainSection
from mlcompress.train.losses import LossEntry, entry
from mlcompress.train.recover import learn

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
WIDTHS = (0.25, 0.45)
LIMITS = {"cached / hard": 1.10, "cached / online": 0.60}
SETTINGS = TrainSection.model_validate({"batch_size": 128, "threads": 1, "epochs": 1, "validation": 0})
DISTILLED = [entry("soft", weight=0.9), entry("hard", weight=0.1)]
WAYS: dict[str, tuple[list[LossEntry], bool]] = {
    "hard": ([entry("hard")], False),
    "cached": (DISTILLED, True),
    "online": (DISTILLED, False),
}


def stand_in(folder: Path) -> Path:
    """A stack of convolutions in about the proportions of a ResNet-14, without its shortcuts."""
    import torch
    from torch import nn

    layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    width = 32
    for out, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        for cin, step in ((width, stride), (out, 1)):
            layers += [nn.Conv2d(cin, out, 3, step, 1), nn.BatchNorm2d(out), nn.ReLU()]
        width = out
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    image, path = torch.randn(2, 1, 28, 28), folder / "teacher.onnx"
    names = {"input_names": ["image"], "output_names": ["logits"]}
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        net,
        (image,),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.TRAINING,
        **names,
        dynamic_axes=axes,
    )
    return path


def pictures(samples: int) -> Dataset:
    """The first pictures of Fashion-MNIST where they are there, else noise: the time is the same."""
    path = SHARED / "data" / "fashion-mnist-train12k.npz"
    if path.is_file():
        stored = np.load(path)
        images, labels = stored["x"][:samples], stored["y"][:samples]
        images = images.reshape(-1, 1, 28, 28).astype(np.float32) / 255
        return from_arrays({"image": images}, labels.astype(np.int64), name="data.train")
    rng = np.random.default_rng(0)
    images = rng.random((samples, 1, 28, 28), np.float32)
    return from_arrays({"image": images}, rng.integers(0, 10, samples), name="data.train")


def seconds(way: str, teacher: ir.Model, student: ir.Model, data: Dataset, folder: Path) -> float:
    """CPU seconds from the first step of an epoch to its last."""
    losses, cache = WAYS[way]
    moments: list[float] = []
    learn(
        graph.copy(student),
        teacher,
        SETTINGS,
        Context(0, train=data),
        losses=losses,
        evaluate=Evaluate(),
        epochs=1,
        label=way,
        where="distill",
        cache=str(folder) if cache else False,
        after_step=lambda: moments.append(time.process_time()),
    )
    return moments[-1] - moments[0]


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--samples", type=int, default=2560)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = SHARED / "models" / "fmnist-resnet14-bn.onnx"
        teacher = checkpoint.load(path if path.is_file() else stand_in(folder))
        data = pictures(given.samples)
        missed = [
            name
            for width in WIDTHS
            for name in compare(teacher, width, data, given.rounds, folder / f"{width}")
        ]
    return 1 if missed else 0


def compare(teacher: ir.Model, width: float, data: Dataset, count: int, folder: Path) -> list[str]:
    """Measure one student and print it; the limits it misses."""
    section = StudentSection(width=width, round_to=4)
    student = make_student(teacher, section, Context(0, train=data)).model
    shapes = {"image": [1, 1, 28, 28]}
    params = [graph.parameters(model) for model in (teacher, student)]
    macs = [graph.macs(model, shapes=shapes) or 0 for model in (teacher, student)]
    print(
        f"width {width}: teacher {params[0]:,} parameters, {params[0] / params[1]:.1f}x the student's,"
        f" {macs[0] / macs[1]:.1f}x its MACs"
    )
    rounds = []
    for number in range(count + 1):  # the first warms up and writes the cache
        one = {way: seconds(way, teacher, student, data, folder) for way in WAYS}
        if number:
            rounds.append(one)
            print("  " + "  ".join(f"{way} {taken:.3f} s" for way, taken in one.items()), flush=True)
    missed = []
    for name, limit in LIMITS.items():
        above, below = name.split(" / ")
        ratios = sorted(one[above] / one[below] for one in rounds)
        found = median(ratios)
        verdict = "holds" if found <= limit else "MISSED"
        missed += [name] if found > limit else []
        print(f"  {name}: {found:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), limit {limit}: {verdict}")
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
