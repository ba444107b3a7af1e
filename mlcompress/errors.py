"""Errors that reach the user as text. Anything else is a bug (exit status 3).

Every message is one line of the form `where: what is wrong; what to do`. An error may carry several lines,
so that a user sees all problems at once.
"""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. `lines` holds one message each."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class UsageError(UserError):
    """The command line is wrong."""


class RecipeError(UserError):
    """A recipe is wrong."""


class ModelError(UserError):
    """A model file cannot be read, is broken, or does not fit."""


class DataError(UserError):
    """A data file cannot be read or does not fit the model."""


class UnsupportedError(UserError):
    """The request is valid, but this version or this machine cannot do it."""


class DivergedError(UserError):
    """Training left the finite numbers; the state of the last good epoch is kept."""


def shorten(names: Iterable[str], most: int = 4) -> str:
    """`a, b, c, d (+3 more)`: a list of names that fits one line."""
    listed = list(names)
    tail = f" (+{len(listed) - most} more)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + tail


def one_line(error: BaseException) -> str:
    """The message of somebody else's exception, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
