"""A float graph made ready, with the ranges of its activations: any placement can be built from it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.data.samples import fixed_batch, take
from mlcompress.errors import UnsupportedError
from mlcompress.graph.insert import Insertion
from mlcompress.graph.session import session
from mlcompress.quantize.activations import UINT8, WIDE_OPSET, Activation, Range
from mlcompress.quantize.bias_correction import bias_place
from mlcompress.quantize.calibrate import observe
from mlcompress.quantize.cast import Stored, store_weights
from mlcompress.quantize.equalize import equalize
from mlcompress.quantize.fuse import (
    PER_CHANNEL_OPSET,
    fold_batch_norm,
    fold_gemm_factors,
    pool_means,
    raise_opset,
)
from mlcompress.quantize.integer import lay_out
from mlcompress.quantize.mixed import Scheme
from mlcompress.quantize.observers import observers
from mlcompress.quantize.recipe import QuantizeSection
from mlcompress.quantize.recipe_weights import Weights
from mlcompress.quantize.smooth import smooth
from mlcompress.quantize.static import insert_qdq
from mlcompress.quantize.widen import widen_stems

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

OPSET_TOLERANCE = 1e-4
"""Of the largest output: both graphs are float, and the converter only restates operators."""


@dataclass(frozen=True)
class Fitted:
    """What was chosen for one layer beyond plain rounding."""

    weight: np.ndarray
    """float32, on the grid of the scales."""
    scales: np.ndarray
    """float32, broadcast against the weight."""
    bias: np.ndarray | None
    """float32 [N]; None: as it was."""


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
    scheme: Scheme = "int8"
    fitted: Mapping[str, Fitted] = field(default_factory=dict)
    """By node name; used where that node runs as integers."""
    activation: Activation = UINT8
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What was done to the float graph, for the card."""
    weights: Weights = field(default_factory=Weights)
    """How those of float layers are stored."""
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Those of weights that training has put on their grid, by name: units of int8 codes where the layer
    runs as integers, else of the scheme's levels.
    """

    target: str = "cpu"

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
        fitted = {name: found for name, found in self.fitted.items() if name in taken}
        scales = {**self.scales, **_put(model, fitted)}
        padded = widen_stems(model, taken)
        ranges = self.ranges | {new: self.ranges[old] for new, old in padded.items()}
        layout = lay_out(model.graph, lambda node: node.name in taken)
        insert_qdq(
            model,
            layout,
            ranges,
            per_channel=self.per_channel,
            scheme=self.scheme,
            scales=scales,
            activation=self.activation,
            integer_products=self.target == "cpu",
        )
        keep = [node for node in model.graph if node.name in self.kept or node.name in set(plain)]
        weights = self.base.graph.initializers
        stored = store_weights(
            model, form, weights, weights=self.weights, keep=keep, scales=self.scales, target=self.target
        )
        return model, stored


def calibrate(
    model: ir.Model, section: QuantizeSection, kept: Collection[str], data: "Dataset"
) -> Calibrated:
    """Fold, raise the operator set where needed, and observe every tensor that may become 8-bit.

    Raises UnsupportedError when the operator set cannot be raised, DataError when activations are not finite.
    """
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    pool_means(base, kept)
    activation = Activation(section.activations.scheme, section.activations.symmetric)
    opset = WIDE_OPSET if activation.is_wide else PER_CHANNEL_OPSET
    raised = raise_opset(base, opset)
    if raised is not base:
        _compare(base, raised, data, opset)
    skipped = frozenset(kept)
    changes = _rescale(raised, section, skipped, data)
    layout = lay_out(raised.graph, lambda node: node.name not in skipped)
    seen = observe(raised, [str(value.name) for value in layout.roots], data)
    observer = observers.bind(section.activations.observer)
    ranges = {name: observer(statistics) for name, statistics in seen.items()}
    batch = fixed_batch(raised) or 1
    samples = -(-len(data) // batch) * batch
    sizes = {name: float(statistics.counts.sum()) / samples for name, statistics in seen.items()}
    scheme = section.weights.by_layer(section.mode)
    per_channel = section.weights.granularity == "per_channel"
    return Calibrated(
        raised,
        ranges,
        sizes,
        skipped,
        per_channel,
        scheme,
        activation=activation,
        changes=changes,
        weights=section.weights,
        target=section.target,
    )


def _rescale(
    model: ir.Model, section: QuantizeSection, kept: frozenset[str], data: "Dataset"
) -> dict[str, Any]:
    """Move scales between layers where the recipe says so, in place: the float outputs stay."""
    changes: dict[str, Any] = {}
    if section.equalize:
        pairs, left = equalize(model, kept)
        changes["equalized"] = {"pairs": pairs, "left_alone": left}
    if (alpha := section.smoothing) is not None:
        owned = lay_out(model.graph, lambda node: node.name not in kept).owned
        changes["smoothed"] = smooth(model, data, kept, alpha=alpha, owned=owned)
    return changes


def _put(model: ir.Model, fitted: Mapping[str, Fitted]) -> dict[str, np.ndarray]:
    """Give fitted layers their weights and biases, in place; the scales by name of the weight."""
    insertion, scales = Insertion(model.graph), {}
    for node in [node for node in model.graph if node.name in fitted]:
        found = fitted[str(node.name)]
        insertion.set_input(node, 1, found.weight, f"{node.name}.weight")
        scales[str(node.inputs[1].name if node.inputs[1] else "")] = found.scales
        place = bias_place(node)
        if found.bias is not None and place is not None:
            insertion.set_input(*place, found.bias, f"{node.name}.bias")
    return scales


def _compare(before: ir.Model, after: ir.Model, data: "Dataset", opset: int) -> None:
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
                f"{opset}; export the model again with a newer operator set"
            )
