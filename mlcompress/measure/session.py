"""onnxruntime sessions as everything here measures them: level ALL, one inter-op thread, no spinning."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mlcompress.errors import DataError, ModelError, UnsupportedError
from mlcompress.graph.session import ORT_ERRORS, Level, reason
from mlcompress.measure.providers import CPU, Provider, open_session

Model = Path | bytes
"""A file, or the bytes of a ModelProto."""

Feeds = Mapping[str, np.ndarray]


def label(model: Model) -> str:
    """How messages call a model."""
    return str(model) if isinstance(model, Path) else "model in memory"


def create(
    model: Model,
    provider: Provider = CPU,
    *,
    threads: int = 1,
    profile: Path | None = None,
    level: ort.GraphOptimizationLevel = Level.ORT_ENABLE_ALL,
) -> ort.InferenceSession:
    """A session for measuring.

    Args:
        threads: intra-op threads; 0 lets onnxruntime take all cores.
        profile: prefix of a profile file, which `end_profiling` then names.
        level: how far onnxruntime may optimise the graph.

    Raises:
        ModelError: the file is missing or onnxruntime refuses it.
        UnsupportedError: it loads on the CPU's terms, but not on `provider`.
    """
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"{model}: no such file")
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    # A spinning thread burns a core between calls: 19-22 ms of CPU per call, with
    # pauses of 20 ms, against 7 without spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return open_session(str(model) if isinstance(model, Path) else model, options, provider, threads)
    except ORT_ERRORS as problem:
        if provider.ort_name == CPU.ort_name:
            raise ModelError(f"{label(model)}: onnxruntime cannot load it: {reason(problem)}") from None
        raise UnsupportedError(
            f"{label(model)}: cannot be loaded on {provider.name}: {reason(problem)}; leave the provider out"
        ) from None


def feeds_for(session: ort.InferenceSession, feeds: Feeds, name: str) -> dict[str, np.ndarray]:
    """The arrays that one of several compared models takes.

    By name; a model with none of these names (another framework's export of the same net) is fed in input
    order, if number, dtypes and ranks agree.

    Raises:
        ModelError: the inputs are not the same inputs.
    """
    wanted = session.get_inputs()
    if all(value.name in feeds for value in wanted):
        return {value.name: feeds[value.name] for value in wanted}
    pairs = list(zip(wanted, feeds.values(), strict=False))
    strangers = not any(value.name in feeds for value in wanted)
    if strangers and len(wanted) == len(feeds) and all(_fits(value, array) for value, array in pairs):
        return {value.name: array for value, array in pairs}
    raise ModelError(
        f"{name}: its inputs ({', '.join(value.name for value in wanted)}) are not those of the model that "
        f"it is compared with ({', '.join(feeds)}); models of one comparison take the same inputs"
    )


def run(session: ort.InferenceSession, feeds: Feeds, name: str) -> list[np.ndarray]:
    """One inference: all outputs, in the model's order.

    Raises:
        DataError: the model refuses these inputs.
    """
    try:
        outputs: list[np.ndarray] = session.run(None, dict(feeds))
    except ORT_ERRORS as problem:
        raise DataError(f"{name}: cannot be run on the inputs given: {reason(problem)}") from None
    return outputs


def caller(
    session: ort.InferenceSession, feeds: Feeds, provider: Provider, name: str
) -> Callable[[], object]:
    """One inference without arguments, for timing. Inputs and outputs of a GPU provider stay on its device.

    Raises:
        DataError: the model refuses these inputs.
    """
    arrays = dict(feeds)
    run(session, arrays, name)  # refuses with a message; the timed calls below need not
    if provider.device == "cpu":
        return lambda: session.run(None, arrays)
    binding = bind(session, arrays, provider.device)

    def bound() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return bound


def bind(session: ort.InferenceSession, feeds: Feeds, device: str) -> ort.IOBinding:
    """Inputs copied to `device` once, outputs kept there."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    for value in session.get_outputs():
        binding.bind_output(value.name, device, 0)
    binding.synchronize_inputs()
    return binding


def copy_seconds(
    session: ort.InferenceSession, feeds: Feeds, device: str, clock: Callable[[], float], times: int = 10
) -> float:
    """Median time to bring the inputs to `device` and the outputs back, which latency leaves out."""
    taken = []
    for _ in range(times):
        start = clock()
        binding = bind(session, feeds, device)
        arrived = clock()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = clock()
        binding.copy_outputs_to_cpu()
        taken.append(clock() - computed + arrived - start)
    return float(np.median(taken))


def _fits(value: ort.NodeArg, array: np.ndarray) -> bool:
    return (
        value.type == f"tensor({_ORT_NAMES.get(array.dtype.name, array.dtype.name)})"
        and len(value.shape) == array.ndim
    )


_ORT_NAMES = {"float32": "float", "float64": "double"}
