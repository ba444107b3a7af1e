"""One command in several processes, as `torchrun` and `accelerate launch` start it."""

import os


def is_first() -> bool:
    """Whether this process writes, measures and prints: the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many processes were started, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))
