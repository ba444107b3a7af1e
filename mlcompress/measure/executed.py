"""What really ran: kernels, providers and times from onnxruntime's profile of one inference.

`session.get_providers()` is no evidence: it lists the CPU when every node ran on OpenVINO, and OpenVINO for a
model that ran most of its nodes on the CPU. Profiling slows a run, so these times are for shares between
providers, never for the latency figure.
"""

import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from mlcompress.errors import UnsupportedError
from mlcompress.graph.session import Level
from mlcompress.measure import session as sessions
from mlcompress.measure.providers import CPU, Provider
from mlcompress.measure.session import Feeds, Model

INTEGER_KERNELS = {
    "Conv": ("QLinearConv", "ConvInteger"),
    "Gemm": ("QGemm",),
    "MatMul": (
        *("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        *("MatMulNBits", "QOrderedMatMul"),
    ),
    "Add": ("QLinearAdd",),
    "others": (
        *("QLinearMul", "QLinearConcat", "QLinearWhere", "QLinearAveragePool", "QLinearGlobalAveragePool"),
        *("QLinearReduceMean", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QAttention", "QMoE"),
        *("DynamicQuantizeLSTM", "GatherBlockQuantized", "QEmbedLayerNormalization"),
    ),
}
"""Float op -> ops that compute it with integers, or with packed integer weights (MatMulNBits)."""
INTEGER_OPS = frozenset(op for ops in INTEGER_KERNELS.values() for op in ops)
_KERNEL = "_kernel_time"
"""Ending of a kernel's event in the profile."""


@dataclass(frozen=True)
class Executed:
    """Kernels of one inference after all of onnxruntime's fusions; nodes inside If and Loop count as often as
    they ran.

    A compiled provider (OpenVINO, TensorRT) shows each subgraph that it took as one node.
    """

    provider: str
    """onnxruntime's name of the provider that was asked for."""
    nodes: dict[str, int]
    """Provider -> kernels run."""
    kernel_ms: dict[str, float]
    """Provider -> time in kernels, slowed by profiling."""
    ops: dict[str, int]
    """Op type -> kernels run, over all providers."""
    names: frozenset[str]
    """Of the nodes run, as the graph has them where onnxruntime did not fuse."""
    outputs: tuple[NDArray[Any], ...] = ()
    """Of the run, in the model's order."""

    @property
    def fallback_nodes(self) -> int:
        """Kernels that ran on another provider than the one asked for."""
        return sum(count for name, count in self.nodes.items() if name != self.provider)

    def as_json(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes,
            "kernel_ms": {name: round(value, 4) for name, value in self.kernel_ms.items()},
            "ops": self.ops,
            "fallback_nodes": self.fallback_nodes,
        }


def profile(
    model: Model,
    feeds: Feeds,
    provider: Provider = CPU,
    *,
    threads: int = 1,
    level: ort.GraphOptimizationLevel = Level.ORT_ENABLE_ALL,
) -> Executed:
    """Run `model` twice in a session of its own and read the profile of the second run.

    Args:
        feeds: arrays as `session.feeds_for` takes them.

    Raises:
        ModelError, UnsupportedError: the model cannot be loaded. DataError: it cannot be run on `feeds`.
    """
    with tempfile.TemporaryDirectory(prefix="mlcompress-profile-") as folder:
        session = sessions.create(model, provider, threads=threads, profile=Path(folder) / "run", level=level)
        arrays = sessions.feeds_for(session, feeds, sessions.label(model))
        sessions.run(session, arrays, sessions.label(model))
        outputs = sessions.run(session, arrays, sessions.label(model))
        written = session.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8"))
    return replace(summarise(events, provider.ort_name), outputs=tuple(outputs))


def refuse_fallback(ran: Executed, provider: str, label: str) -> None:
    """What `measure: {strict: true}` asks for. Raises UnsupportedError if a node ran on another provider."""
    if ran.fallback_nodes:
        others = ", ".join(name for name in ran.nodes if name != ran.provider)
        raise UnsupportedError(
            f"{label}: {ran.fallback_nodes} of {sum(ran.nodes.values())} nodes ran on "
            f"{others} and not on {provider}; set measure.strict to false to allow that"
        )


def summarise(events: list[dict[str, Any]], ort_name: str) -> Executed:
    """Count the kernels of the last run in a profile of onnxruntime (Chrome trace events)."""
    start = max(event["ts"] for event in events if event.get("name") == "model_run")
    nodes: Counter[str] = Counter()
    ops: Counter[str] = Counter()
    kernel_ms: dict[str, float] = defaultdict(float)
    names: set[str] = set()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL) or event["ts"] < start:
            continue
        provider, op = event["args"]["provider"], event["args"]["op_name"]
        nodes[provider] += 1
        ops[op] += 1
        kernel_ms[provider] += event["dur"] / 1000
        names.add(event["name"].removesuffix(_KERNEL))
    return Executed(
        ort_name,
        dict(sorted(nodes.items())),
        dict(sorted(kernel_ms.items())),
        dict(sorted(ops.items())),
        frozenset(names),
    )
