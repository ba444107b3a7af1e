"""Exit status of the program; part of its interface."""

from enum import IntEnum


class Exit(IntEnum):
    """What a shell, a Makefile or a CI job reads from `$?`."""

    DONE = 0
    """Work done; every gate held; OUTPUT and OUTPUT.json exist and load."""
    GATE_MISSED = 1
    """Work done, but a gate failed. OUTPUT is untouched; the result is kept as OUTPUT.rejected*."""
    CANNOT_RUN = 2
    """Usage, recipe, model or data is wrong, or something is not supported. Nothing was written."""
    BUG = 3
    """An internal error; please report it."""
    INTERRUPTED = 130
    TERMINATED = 143
