"""What one command asks for: one stage, applied to one model, written to one file."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """Everything `pipeline.run` needs; the recipe is not read yet."""

    stage: str
    model: Path
    output: Path
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    """`KEY=VALUE`, applied to the recipe in order."""
    teachers: tuple[Path, ...] = ()
    """distill: more teachers than the positional one."""
    student: Path | None = None
    """distill: the graph to train; None derives one from the teacher."""
    no_code: bool = False
    """Refuse Python that a recipe names."""
    debug: bool = False
    """Show the traceback of an internal error; batches hand it on."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Model files that are read."""
        return (self.model, *self.teachers, *([self.student] if self.student else []))
