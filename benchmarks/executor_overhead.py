"""What the executor costs in training: forward and backward against the torch module the graph came from.

    flock LOCK python benchmarks/executor_overhead.py [--rounds 12]

One thread, both sides interleaved in one process, ratio = executor / module per round; below 1 the executor
is faster. Nets: ResNet-14 (batch 128), and encoders of 6 layers and width 384 (batch 16, 64 tokens): MiniLM
and torch's own. The first two come from ../shared/models; without that folder stand-ins take their place.
"""

import argparse
import importlib
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared" / "models"
LIMITS = {"resnet14": 1.05, "encoder": 1.15}


def stand_in_resnet() -> nn.Module:
    """Convolutions and normalisations in about the proportions of a ResNet-14, without its shortcuts."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, 32, 3, 1, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    width = 32
    for out, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        for cin, step in ((width, stride), (out, 1)):
            layers += [nn.Conv2d(cin, out, 3, step, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def stand_in_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(384, 12, 1536, 0.0, "gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


def nets() -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Name: (module, inputs)."""
    image = torch.randn(128, 1, 28, 28)
    if not SHARED.is_dir():
        print(f"{SHARED} is not there: stand-in nets")
        return {
            "resnet14": (stand_in_resnet(), {"image": image}),
            "encoder": (stand_in_encoder(), {"x": torch.randn(16, 64, 384)}),
        }
    sys.path.insert(0, str(SHARED))
    tokens = {"ids": torch.randint(0, 30000, (16, 64)), "mask": torch.ones(16, 64, dtype=torch.int64)}
    tokens["mask"][::2, 40:] = 0
    return {
        "resnet14": (importlib.import_module("fmnist_nets").ResNet14(), {"image": image}),
        "encoder": (importlib.import_module("minilm").MiniLM(), tokens),
        "torch encoder": (stand_in_encoder(), {"x": torch.randn(16, 64, 384)}),
    }


def executor_of(net: nn.Module, inputs: dict[str, Tensor]) -> nn.Module:
    from mlcompress import graph
    from mlcompress.train.executor import Executor

    axes = {0: torch.export.Dim("batch", min=1, max=1024)}
    if len(inputs) == 2 or next(iter(inputs.values())).dim() == 3:
        axes[1] = torch.export.Dim("tokens", min=2, max=512)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "net.onnx"
        example = tuple(value[:2].clone() for value in inputs.values())
        torch.onnx.export(
            net.eval(), example, path, dynamo=True, optimize=False, opset_version=18, external_data=False,
            input_names=list(inputs), output_names=["result"], dynamic_shapes=(axes,) * len(inputs),
            verbose=False,
        )  # fmt: skip
        return Executor(graph.load(path))


def seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, 1 thread, {rounds} rounds, forward + backward, training mode")
    print("net             module ms  executor ms  min/min  median    low   high  limit")
    for name, (net, inputs) in nets().items():
        executor = executor_of(net, inputs).train()
        net.train()

        def of_net(net: nn.Module = net, inputs: dict[str, Tensor] = inputs) -> None:
            net.zero_grad()
            net(*inputs.values()).sum().backward()

        def of_executor(executor: nn.Module = executor, inputs: dict[str, Tensor] = inputs) -> None:
            executor.zero_grad()
            executor(inputs)["result"].sum().backward()

        times = []
        for index in range(rounds + 2):
            pair = (of_net, of_executor) if index % 2 else (of_executor, of_net)
            taken = {step: seconds(step) for step in pair}
            if index >= 2:  # the first two warm up
                times.append((taken[of_net], taken[of_executor]))
        ratios = sorted(after / before for before, after in times)
        module, walked = (min(column) * 1e3 for column in zip(*times, strict=True))
        print(
            f"{name:14} {module:10.1f} {walked:12.1f} {walked / module:8.3f} {median(ratios):7.3f} "
            f"{ratios[0]:6.3f} {ratios[-1]:6.3f} {LIMITS.get(name, 'none'):>6}"
        )


if __name__ == "__main__":
    main()
