"""Where training runs: device, precision, threads, determinism."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast

from mlcompress import processes
from mlcompress.errors import DataError, UnsupportedError, UserError
from mlcompress.recipe.train import TrainSection


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
        cpu=settings.device == "cpu" or (processes.count() > 1 and not torch.cuda.is_available()),
        mixed_precision=_precision(settings),
        gradient_accumulation_steps=settings.accumulate,
        kwargs_handlers=[ddp],
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if made.num_processes != processes.count():  # each would train alone
        raise UnsupportedError(
            f"train: {processes.count()} processes were started, and accelerate joins {made.num_processes};"
            " start them with torchrun or `accelerate launch`, or run one"
        )
    if made.num_processes > 1:
        atexit.register(_leave_group)
    return made


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
    """Deterministic kernels on `threads` CPU threads (0: torch's choice); torch's settings are put back.

    Deterministic mode would also fill each new tensor before it is written, for programs that read what they
    never wrote: an eighth of a training step of a small ResNet, so that is left out.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        if threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=warn_only)
        torch.set_rng_state(before[2])


def check_settings(settings: TrainSection, samples: int, *, has_validation: bool) -> None:
    """What can be refused before anything is trained.

    Raises:
        DataError: `early_stop` without validation.
        UnsupportedError: device or precision that this machine lacks.
        UserError: several processes that cannot share batches of this size.
    """
    if settings.early_stop is not None and not has_validation:
        raise DataError("train.early_stop: needs validation data; name `data.validation` or leave it out")
    _check_device(settings.device)
    _precision(settings)
    check_shares(settings, samples)


def check_shares(settings: TrainSection, samples: int) -> None:
    """Raise UserError when the processes cannot have equal parts of each batch."""
    count = processes.count()
    if settings.batch_size % count:
        raise UserError(
            f"train.batch_size: {settings.batch_size} samples cannot be shared by {count} processes; choose a"
            f" multiple of {count}"
        )
    if count > 1 and samples < settings.batch_size:
        raise UserError(
            f"train.batch_size: {settings.batch_size} is more than the {samples} samples of data.train, which"
            " several processes cannot share; choose a smaller one"
        )


@contextmanager
def first_process_first(settings: TrainSection) -> Iterator[None]:
    """The first process does what is inside before the others do, which find the files it wrote."""
    if processes.count() == 1:
        yield
        return
    with accelerator(settings).main_process_first():
        yield


def check_together(machine: Any, epoch: int) -> None:
    """Raise UserError when the processes do not begin with one epoch, since only some see the kept state."""
    first = int(from_first_process(machine, torch.tensor(epoch)))
    if first != epoch:
        raise UserError(
            f"train: one process goes on after epoch {epoch}, the first after {first}; give OUTPUT a folder"
            " that all processes see, or remove what an interrupted run left there"
        )


def from_first_process(machine: Any, tensor: torch.Tensor) -> torch.Tensor:
    """The first process's `tensor`, in every process."""
    if machine.num_processes == 1:
        return tensor
    shared: torch.Tensor = broadcast(tensor.to(machine.device), from_process=0)
    return shared


def set_layout(module: torch.nn.Module, layout: torch.memory_format) -> None:
    """Order of the numbers of convolution weights in memory; values and shapes stay.

    Channels last makes a CPU training step 1.3 to 1.8 times as fast (ResNet-14 246 -> 193 ms, MobileNet
    205 -> 112 ms, 128 images of 28 x 28, 1 thread of a busy machine).
    """
    for parameter in module.parameters():
        if parameter.ndim == 4:
            # `contiguous` would leave the strides of an axis of length 1, by which torch picks its kernels
            parameter.data = parameter.data.to(memory_format=layout)
