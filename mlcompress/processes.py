"""One command in several processes, as `torchrun` and `accelerate launch` start it."""

import os


def is_first() -> bool:
    """Whether this process writes, measures and prints: the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def is_short() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes: without mpirun it starts one, which
    sees the address to meet the others at, but not how many they are.

    That address is this machine's own, 127.0.0.1 with a port; clusters export another one for every job, also
    for those of one process.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    here = os.environ.get("MASTER_ADDR") == "127.0.0.1" and "MASTER_PORT" in os.environ
    return on_cpu and here and count() == 1


def count() -> int:
    """How many processes were started, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))
