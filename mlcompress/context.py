"""What a stage is given beside model and recipe, and what it gives back beside the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from mlcompress.data.dataset import Dataset


@dataclass(frozen=True)
class GivenTeacher:
    """One of several teachers, and how it differs from the first: names, preprocessing, order of classes."""

    model: "ir.Model"
    file: str
    train: "Dataset | None" = None
    """The training samples as this teacher takes them, in the order of `Context.train`; None: as the student
    does."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """The student's output -> this teacher's name of it, where they differ."""
    classes: tuple[int, ...] = ()
    """This teacher's number of each class, in the student's order; () where they are the same."""
    validation: "Dataset | None" = None
    """As `train`, of the samples of `Context.validation`."""


@dataclass
class Context:
    """Everything a stage may use that is neither the model nor its recipe.

    `evaluate(model)` gives the recipe's metric of a graph on the evaluation data (None without data), and
    `latency(models)` milliseconds of each on the first provider, measured interleaved; both use onnxruntime.
    """

    seed: int
    train: "Dataset | None" = None
    validation: "Dataset | None" = None
    calibration: "Dataset | None" = None
    evaluation: "Dataset | None" = None
    student: "ir.Model | None" = None
    teachers: tuple[GivenTeacher, ...] = ()
    """All of them, the model itself first, where there are several or the recipe describes it; else none."""
    state_dir: Path | None = None
    """Where training keeps what it needs to resume; removed when the artifact is written."""
    folder: Path | None = None
    """Where large tensors and models are put meanwhile; removed with everything in it."""
    feed: "Mapping[str, NDArray[Any]] | None" = None
    """Inputs of one inference, by name, of the shapes that latency is measured at."""
    evaluate: "Callable[[ir.Model], float | None] | None" = None
    latency: "Callable[[list[ir.Model]], list[float]] | None" = None

    @property
    def taught_outputs(self) -> set[str]:
        """Names of a student's outputs that one of `teachers` knows."""
        return {
            name
            for given in self.teachers
            for name in (*given.outputs, *(str(value.name) for value in given.model.graph.outputs))
        }


@dataclass
class Change:
    """What a stage did, as plain data for the card."""

    summary: str
    """One line for the terminal."""
    details: dict[str, Any] = field(default_factory=dict)
    """Method-specific facts (JSON types only)."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """`{"name": node or tensor, "reason": why}` for everything that was left alone."""
    warnings: list[str] = field(default_factory=list)
    """Said on stderr and kept in the card."""
