"""The figures of a report as plain data; every output format reads these and nothing else."""

from dataclasses import dataclass, field
from typing import Literal

from mlcompress import gate
from mlcompress.gate import Checked

Source = Literal["measured", "card"]
"""Where a figure comes from: measured for this report, or copied from a card that an earlier run wrote."""


@dataclass(frozen=True)
class Ratio:
    """Latency after / before (below 1 is faster); `low` and `high` span the repeats."""

    value: float
    low: float
    high: float
    verdict: str
    """`faster`, `slower` or `no measurable difference`."""
    against: str
    """Path of the model that is `before`."""


@dataclass(frozen=True)
class Timing:
    """Latency of one model on one execution provider, milliseconds per call."""

    provider: str
    batch_size: int
    threads: int
    p50: float
    p90: float
    to_baseline: Ratio | None = None
    to_parent: Ratio | None = None
    fallback_nodes: int = 0
    """Nodes that ran on another provider than the one named."""
    source: Source = "measured"
    of: str | None = None
    """What ran, where it was not the file itself (`onnx twin`)."""


@dataclass(frozen=True)
class Score:
    """A metric with its 95 % interval, where the metric has one."""

    name: str
    value: float
    samples: int
    low: float | None = None
    high: float | None = None
    synthetic: bool = False
    """The samples were random numbers: the figure says nothing about the task."""
    fixed: int | None = None
    """Samples that this model gets right and the baseline does not."""
    broken: int | None = None
    """Samples that the baseline gets right and this model does not."""
    source: Source = "measured"


@dataclass(frozen=True)
class Memory:
    """Of a fresh process that loads and runs the model."""

    peak_bytes: int
    load_ms: float
    source: Source = "measured"


@dataclass(frozen=True)
class Skipped:
    """Something that a stage left alone."""

    name: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One model file. Bytes include external data; `macs` is None where shapes do not give them."""

    path: str
    sha256: str
    bytes: int
    compressed_bytes: int
    params: int
    macs: int | None = None
    runs: bool = True
    """Whether onnxruntime runs the file. Of TorchScript, which it does not run, only sizes are measured."""
    stage: str | None = None
    summary: str | None = None
    parent_path: str | None = None
    parent_sha256: str | None = None
    parent: int | None = None
    """Index of the parent's row, where the parent is among the files."""
    score: Score | None = None
    timings: tuple[Timing, ...] = ()
    memory: Memory | None = None
    synthetic: bool = False
    """The stage that made this file worked on random data."""
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All files of one report. `rows` keep the order of the command line."""

    rows: tuple[Row, ...]
    baseline: int = 0
    title: str = "Model report"
    measured: bool = True
    limits: tuple[Checked, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Row:
        """The row that the others are compared with."""
        return self.rows[self.baseline]

    @property
    def missed(self) -> bool:
        """Whether a limit of the gate does not hold; an inconclusive one does not."""
        return bool(gate.missed(list(self.limits)))
