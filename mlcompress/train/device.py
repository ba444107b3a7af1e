"""Where training runs: device, precision, threads, determinism."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast

from mlcompress.errors import UnsupportedError
from mlcompress.recipe.sections import TrainSection


def accelerator(settings: TrainSection) -> Any:
    """An `accelerate.Accelerator` for `settings.device`, `settings.precision` and `settings.accumulate`.

    Raises:
        UnsupportedError: this machine lacks the device or the precision that the recipe asks for.
    """
    _check_device(settings.device)
    # Accelerate keeps one state per process and refuses another precision or device later.
    AcceleratorState._reset_state(reset_partial_state=True)
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # outputs that no loss looks at
    made = Accelerator(
        cpu=settings.device == "cpu",
        mixed_precision=_precision(settings),
        gradient_accumulation_steps=settings.accumulate,
        kwargs_handlers=[ddp],
    )
    if made.num_processes > 1:
        atexit.register(_leave_group)
    return made


def is_first_process() -> bool:
    """Whether this process may write files: the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes `torchrun` started, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _leave_group() -> None:
    """A process that ends inside its group is aborted by the group's own threads now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_device(device: str) -> None:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        raise UnsupportedError(
            f"train.device: this torch finds no {device} device; use `device: auto` or `cpu`"
        )


def _precision(settings: TrainSection) -> str:
    on_cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    if settings.precision == "auto":
        if not on_cuda:
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if settings.precision == "fp16" and not on_cuda:
        raise UnsupportedError(
            "train.precision: fp16 training needs a CUDA device; use `fp32`, `bf16` or `auto`"
        )
    return "no" if settings.precision == "fp32" else settings.precision


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Deterministic kernels on `threads` CPU threads (0: torch's choice); torch's settings are put back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=warn_only)
        torch.set_rng_state(before[2])


def from_first_process(machine: Any, tensor: torch.Tensor) -> torch.Tensor:
    """The first process's `tensor`, in every process."""
    if machine.num_processes == 1:
        return tensor
    shared: torch.Tensor = broadcast(tensor.to(machine.device), from_process=0)
    return shared
