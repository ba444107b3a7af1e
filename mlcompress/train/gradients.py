"""Gradients of a loss for its own sake: which weights it depends on, on a stream of batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from mlcompress import console, graph
from mlcompress.data.dataset import Dataset
from mlcompress.data.samples import batches
from mlcompress.errors import UnsupportedError
from mlcompress.graph.session import session
from mlcompress.recipe.sections import Evaluate
from mlcompress.train.batches import TorchBatch, to_torch
from mlcompress.train.executor import Executor
from mlcompress.train.labels import distribution
from mlcompress.train.logits import find_output, has_logits, logits_value

BATCH = 32


@dataclass(frozen=True)
class SampleLoss:
    """A loss that needs nothing but what it is given: one number a sample."""

    taps: tuple[str, ...]
    """Values beside the outputs that it reads."""
    told: str
    """What it compares with, for the card."""
    compute: Callable[[dict[str, Tensor], TorchBatch], Tensor]
    """(outputs and taps, batch) -> [B]."""


def sample_loss(
    model: ir.Model, original: ir.Model, data: Dataset, evaluate: Evaluate, seed: int
) -> SampleLoss:
    """Cross-entropy to the labels; without labels to the classes that `original` finds.

    Distillation towards the original will not do: before the first cut the model is the original, and every
    gradient zero. Outputs that hold no class logits are projected on random directions: the mean square of
    such gradients is the curvature of the squared distance to the original's outputs (Gauss-Newton).
    Raises UnsupportedError without a float output.
    """
    output = find_output(model, evaluate.output, "evaluate.output")
    if not has_logits(output):
        names = [tensor.name for tensor in graph.signature(model).outputs if tensor.dtype.kind == "f"]
        if not names:
            raise UnsupportedError(
                f"prune.criterion: no gradient passes {output.name}, which holds no float numbers;"
                " use l2, which needs no gradients"
            )
        return SampleLoss((), "random directions of the outputs", _projection(names, seed))
    name = logits_value(output, "evaluate.output")
    if data.labels is not None and data.labels.dtype.kind in "iu" and data.labels.ndim == 1:
        return SampleLoss((name,), "cross-entropy to the labels", _to_labels(name, data.name))
    return SampleLoss(
        (name,), "cross-entropy to the original's classes", _to_original(name, original, output)
    )


def _to_labels(name: str, where: str) -> Callable[[dict[str, Tensor], TorchBatch], Tensor]:
    def compute(values: dict[str, Tensor], batch: TorchBatch) -> Tensor:
        logits = values[name]
        return functional.cross_entropy(logits, distribution(batch, logits.shape[1], where), reduction="none")

    return compute


def _to_original(
    name: str, original: ir.Model, output: ir.Value
) -> Callable[[dict[str, Tensor], TorchBatch], Tensor]:
    run = session(graph.to_bytes(original))

    def compute(values: dict[str, Tensor], batch: TorchBatch) -> Tensor:
        feed = {key: value.numpy() for key, value in batch.inputs.items()}
        classes = run.run([str(output.name)], feed)[0].argmax(axis=1)
        return functional.cross_entropy(values[name], torch.from_numpy(classes), reduction="none")

    return compute


def _projection(names: Sequence[str], seed: int) -> Callable[[dict[str, Tensor], TorchBatch], Tensor]:
    def compute(values: dict[str, Tensor], batch: TorchBatch) -> Tensor:
        count = len(batch.ids)
        total = torch.zeros(count)
        for place, name in enumerate(names):
            rows = values[name].float().reshape(count, -1)
            directions = [
                np.random.default_rng([seed, place, int(i)]).normal(size=rows.shape[1]) for i in batch.ids
            ]
            total = total + (rows * torch.from_numpy(np.stack(directions)).float()).sum(dim=1)
        return total

    return compute


def gradients(
    executor: Executor, loss: SampleLoss, data: Dataset, names: Sequence[str], *, single: bool
) -> Iterator[dict[str, np.ndarray]]:
    """dL/dw of the named weights for each batch (the mean loss), or for each sample (`single`).

    Batch norms use their running statistics. Memory is one set of gradients.
    """
    executor.eval()
    weights = [executor.trainable[name] for name in names]
    with console.progress("gradients", len(data)) as advance:
        for batch in batches(executor.model, data, 1 if single else BATCH):
            ready, real = to_torch(batch), len(np.unique(batch.ids))
            losses = loss.compute(executor(ready.inputs, loss.taps), ready)[:real]
            parts = list(losses) if single else [losses.mean()]
            for number, part in enumerate(parts, start=1):
                found = torch.autograd.grad(
                    part, weights, retain_graph=number < len(parts), allow_unused=True
                )
                yield {
                    name: np.zeros(tuple(weight.shape), np.float32) if one is None else one.detach().numpy()
                    for name, weight, one in zip(names, weights, found, strict=True)
                }
            advance(real)


class Movement:
    """-sum of w dL/dw over the training steps of an executor, by name."""

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}

    def follow(self, executor: Executor, names: Sequence[str]) -> Callable[[], None]:
        """Add up from now on, from zero; what is returned stops it."""
        trainable = executor.trainable
        totals = {name: torch.zeros(tuple(trainable[name].shape)) for name in names if name in trainable}

        def hook(name: str) -> Callable[[Tensor], None]:
            weight = trainable[name]

            def add(steep: Tensor) -> None:  # what a hook returns would take the gradient's place
                totals[name].sub_((steep * weight.detach()).to("cpu", torch.float32))

            return add

        handles = [trainable[name].register_hook(hook(name)) for name in totals]  # type: ignore[no-untyped-call]

        def stop() -> None:
            for handle in handles:
                handle.remove()
            self.sums = {name: total.numpy() for name, total in totals.items()}

        return stop
