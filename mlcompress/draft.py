"""An artifact in the making, and how it becomes visible: whole, with its card, or not at all."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from mlcompress import card, files
from mlcompress.errors import DivergedError, UsageError, UserError


class Draft:
    """A hidden folder beside OUTPUT where everything is written first.

    On success, and on a user's error, it is removed. When anything else ends the process after training has
    begun, or training diverges, it stays, so that the same command can go on from `state`.

    The order of publishing leaves no moment at which OUTPUT is half-written or stands beside a card of
    other bytes: the old OUTPUT goes, the new card comes, the new OUTPUT comes, each in one rename or unlink.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.parent / f".{output.name}.partial"
        self.model = self.folder / output.name
        self.state = self.folder / "state"

    def __enter__(self) -> "Draft":
        path = self.folder / "lock"
        self.folder.mkdir(exist_ok=True)
        self._lock = path.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(self._lock.fileno()), path.stat())
        except OSError:
            mine = False
        if not mine:  # held by another process, or removed by one that has just ended
            self._lock.close()
            raise UsageError(f"{self.output}: another mlcompress is writing it; wait for that one")
        for left_over in self.folder.iterdir():
            if left_over.is_dir() and left_over != self.state:
                shutil.rmtree(left_over)
            elif left_over not in (path, self.state):
                left_over.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_over = kind is None or (issubclass(kind, UserError) and not issubclass(kind, DivergedError))
        if is_over or not self.state.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def publish(self, facts: card.Card) -> Path:
        """Put artifact and card in place; an older rejected one is no longer of interest.

        Raises UsageError, before anything changes, where a file of somebody else has the name of the data.
        """
        self._move(facts, self.output)
        with suppress(OSError):  # what is published stays published
            artifact, card_path, data = _names(self.rejected)
            for stale in (artifact, card_path, *([data] if _is_ours(self.rejected) else [])):
                stale.unlink(missing_ok=True)
        return self.output

    def reject(self, facts: card.Card) -> Path:
        """Keep what is at `rejected_model`, and the card, as OUTPUT.rejected*; OUTPUT stays as it was."""
        self._move(facts, self.rejected)
        return self.rejected

    @property
    def rejected(self) -> Path:
        """Where an artifact goes that missed its gate."""
        return self.output.with_name(self.output.name + ".rejected")

    @property
    def rejected_model(self) -> Path:
        """Where to write such an artifact: external data is referred to by the file's own name."""
        return self.folder / self.rejected.name

    def _move(self, facts: card.Card, target: Path) -> None:
        artifact, card_path, data_path = _names(target)
        model, card_draft, data = _names(self.folder / target.name)
        card_draft.write_bytes(card.to_bytes(facts))
        for part in (model, card_draft, *([data] if data.exists() else [])):
            files.sync(part)
        had_data = _is_ours(target)
        if data.exists() and data_path.exists() and not had_data:
            raise UsageError(
                f"{data_path}: the artifact's weights would be written here, and the file is not its own;"
                " move it, or choose another OUTPUT"
            )
        artifact.unlink(missing_ok=True)
        if data.exists():
            data.replace(data_path)
        elif had_data:
            data_path.unlink(missing_ok=True)
        card_draft.replace(card_path)
        model.replace(artifact)


def _names(target: Path) -> tuple[Path, Path, Path]:
    """Artifact, card, and external data."""
    return target, card.path_for(target), card.data_of(target)


def _is_ours(target: Path) -> bool:
    """Does the data file beside `target` belong to the artifact there? Its card says so."""
    found, _ = card.read(target) if target.exists() and card.data_of(target).exists() else (None, None)
    return found is not None and "data" in found["output"]
