"""A float graph made ready, with the ranges of its activations: any placement can be built from it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import UnsupportedError
from mlcompress.graph.session import session
from mlcompress.quantize.accuracy import signal_to_noise
from mlcompress.quantize.calibrate import observe, tapped_session
from mlcompress.quantize.cast import Stored, store_weights
from mlcompress.quantize.fuse import PER_CHANNEL_OPSET, fold_batch_norm, fold_gemm_factors, raise_opset
from mlcompress.quantize.integer import WEIGHTED, fused_output, lay_out
from mlcompress.quantize.observers import observers
from mlcompress.quantize.recipe import QuantizeSection
from mlcompress.quantize.samples import batches, fixed_batch, take
from mlcompress.quantize.static import Range, insert_qdq
from mlcompress.quantize.widen import widen_stems

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

OPSET_TOLERANCE = 1e-4
"""Of the largest output: both graphs are float, and the converter only restates operators."""
RANKING_SAMPLES = 16

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Calibrated:
    """What every placement of one model starts from."""

    base: ir.Model
    """Float; BatchNormalization folded."""
    ranges: dict[str, Range]
    sizes: dict[str, float]
    """Elements per sample of the observed tensors."""
    kept: frozenset[str]
    """Nodes that `skip` keeps in float."""
    per_channel: bool

    def allowed(self, node: ir.Node) -> bool:
        """Whether the recipe lets this node run as integers."""
        return node.name not in self.kept

    def build(
        self, integer: Collection[str], form: str, plain: Collection[str] = ()
    ) -> tuple[ir.Model, Stored]:
        """A new graph with exactly these integer nodes; other weights stored as `form`, those of `plain` as
        they are."""
        model = graph.copy(self.base)
        names = frozenset(integer)
        taken = frozenset(
            str(node.name) for node in lay_out(model.graph, lambda node: node.name in names).nodes
        )
        padded = widen_stems(model, taken)
        ranges = self.ranges | {new: self.ranges[old] for new, old in padded.items()}
        layout = lay_out(model.graph, lambda node: node.name in taken)
        insert_qdq(model, layout, ranges, per_channel=self.per_channel)
        keep = [node for node in model.graph if node.name in self.kept or node.name in set(plain)]
        weights = self.base.graph.initializers
        return model, store_weights(model, form, weights, per_channel=self.per_channel, keep=keep)

    def noise(self, names: Sequence[str], data: "Dataset") -> dict[str, float]:
        """Signal-to-noise ratio in dB of each weighted node's output with that node alone as integers."""
        weighted = [n for n in self.base.graph if n.name in set(names) and n.op_type in WEIGHTED]
        some = data.subset(np.arange(min(RANKING_SAMPLES, len(data))))
        feeds = [batch.inputs for batch in batches(self.base, some, RANKING_SAMPLES)]
        taps = {str(node.name): str(fused_output(node).name) for node in weighted}
        if not taps:
            return {}
        outputs = sorted(set(taps.values()))
        reference = dict(zip(outputs, _run(self.base, outputs, feeds), strict=True))
        found = {}
        for name, tap in taps.items():
            model, _ = self.build([name], "plain")
            made = {value.name for node in model.graph for value in node.outputs}
            output = f"{tap}_dequantized" if f"{tap}_dequantized" in made else tap
            found[name] = signal_to_noise(reference[tap], _run(model, [output], feeds)[0])
        return found


def calibrate(
    model: ir.Model, section: QuantizeSection, kept: Collection[str], data: "Dataset"
) -> Calibrated:
    """Fold, raise the operator set where needed, and observe every tensor that may become 8-bit.

    Raises UnsupportedError when the operator set cannot be raised, DataError when activations are not finite.
    """
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    raised = raise_opset(base, PER_CHANNEL_OPSET)
    if raised is not base:
        _compare(base, raised, data)
    skipped = frozenset(kept)
    layout = lay_out(raised.graph, lambda node: node.name not in skipped)
    seen = observe(raised, [str(value.name) for value in layout.roots], data)
    observer = observers.bind(section.activations.observer)
    ranges = {name: observer(statistics) for name, statistics in seen.items()}
    batch = fixed_batch(raised) or 1
    samples = -(-len(data) // batch) * batch
    sizes = {name: float(statistics.counts.sum()) / samples for name, statistics in seen.items()}
    return Calibrated(raised, ranges, sizes, skipped, section.weights.granularity == "per_channel")


def _run(model: ir.Model, names: Sequence[str], feeds: Sequence[Feed]) -> list[np.ndarray]:
    """The named tensors over all feeds, as one flat array each."""
    session = tapped_session(model, names)
    runs = [session.run(None, feed) for feed in feeds]
    return [np.concatenate([array.ravel() for array in arrays]) for arrays in zip(*runs, strict=True)]


def _compare(before: ir.Model, after: ir.Model, data: "Dataset") -> None:
    feed = take(before, data, 1)
    wanted = session(graph.to_bytes(before)).run(None, feed)
    found = session(graph.to_bytes(after)).run(None, feed)
    for one, other in zip(wanted, found, strict=True):
        if np.issubdtype(one.dtype, np.floating):
            same = np.abs(one - other).max(initial=0) <= OPSET_TOLERANCE * max(
                1.0, np.abs(one).max(initial=0)
            )
        else:
            same = np.array_equal(one, other)
        if not same:
            raise UnsupportedError(
                f"model: outputs change when operator set {before.opset_imports.get('')} is raised to "
                f"{PER_CHANNEL_OPSET}; export the model again with a newer operator set"
            )
