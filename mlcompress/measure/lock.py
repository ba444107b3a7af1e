"""One measurement at a time on a machine, as far as one user's mlcompress processes are concerned."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlcompress import console

try:
    import fcntl
except ImportError:  # Windows: measurements may overlap there
    fcntl = None  # type: ignore[assignment]

_mine = threading.RLock()
"""Serialises the threads of this process, and lets one thread enter again."""
_depth = 0


def path() -> Path:
    """The lock file of this user. Only its lock matters: it is empty, and it stays."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"mlcompress-measure-{user}.lock"


@contextmanager
def measuring() -> Iterator[None]:
    """Hold the machine's measurement lock; the operating system releases it if this process dies.

    Nested use within a thread is free. Where the file cannot be opened, it is said and the measurement goes
    on.
    """
    global _depth
    with _mine:
        descriptor = _acquire() if _depth == 0 else None
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if descriptor is not None:
                os.close(descriptor)


def _acquire() -> int | None:
    if fcntl is None:
        return None
    try:
        # O_NOFOLLOW: in a shared folder somebody else might have put a link of this name.
        descriptor = os.open(path(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        console.warn(
            f"{path()}: cannot be locked ({problem.strerror}); another measurement may run at the same time"
        )
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.say(f"waiting for other measurements on this machine to end ({path()} is locked)")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
