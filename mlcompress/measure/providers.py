"""Execution providers: the names that recipes use, and whether this machine can run them.

A provider comes built into an onnxruntime package, or as a plugin library in a package of its own. A name
that onnxruntime lists is no proof: `CUDAExecutionProvider` is listed on a machine without a GPU, and a
session then runs on the CPU without a word. So each is started once, on a model of one node.
"""

import difflib
import importlib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnxruntime as ort

from mlcompress.errors import UnsupportedError
from mlcompress.graph.session import ORT_ERRORS, reason
from mlcompress.recipe.sections import Measure

_START_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, UnsupportedError, ImportError, OSError)
"""What a provider raises that is listed or installed and does not start (ImportError: a broken package)."""


@dataclass(frozen=True)
class Known:
    """What a short name stands for."""

    ort_name: str
    install: str
    """What to do where it is missing."""
    device: str = "cpu"
    """Where its inputs and outputs live, in the words of `OrtValue.ortvalue_from_numpy`."""
    plugin: str | None = None
    """Module that brings the library, where the provider can be added to a stock onnxruntime."""


KNOWN = {
    "cpu": Known("CPUExecutionProvider", "pip install onnxruntime"),
    "openvino": Known(
        "OpenVINOExecutionProvider",
        "pip install onnxruntime-ep-openvino beside onnxruntime 1.23 or newer (Intel CPUs only), or "
        "onnxruntime-openvino in place of onnxruntime",
        plugin="onnxruntime_ep_openvino",
    ),
    "cuda": Known(
        "CUDAExecutionProvider", "needs an NVIDIA GPU and onnxruntime-gpu in place of onnxruntime", "cuda"
    ),
    "tensorrt": Known(
        "TensorrtExecutionProvider", "needs an NVIDIA GPU, onnxruntime-gpu and TensorRT", "cuda"
    ),
    "coreml": Known("CoreMLExecutionProvider", "needs macOS, where onnxruntime has it"),
    "directml": Known(
        "DmlExecutionProvider", "needs Windows and onnxruntime-directml in place of onnxruntime", "dml"
    ),
    "qnn": Known(
        "QNNExecutionProvider", "needs a Qualcomm machine and onnxruntime-qnn", plugin="onnxruntime_qnn"
    ),
}

_NO_LOCAL_KERNELS = ("AzureExecutionProvider",)
"""Listed by every onnxruntime, but it only calls remote services."""


@dataclass(frozen=True)
class Provider:
    """A provider that this machine can run. `name` is the recipe's word, `device` is where its tensors
    live."""

    name: str
    ort_name: str
    device: str = "cpu"
    plugin: str | None = None


CPU = Provider("cpu", "CPUExecutionProvider")


@dataclass(frozen=True)
class ProviderInfo:
    """One line of `mlcompress providers`."""

    name: str
    ort_name: str
    ready: bool
    note: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ort_name": self.ort_name, "ready": self.ready, "note": self.note}


@dataclass(frozen=True)
class Selection:
    """The providers of a recipe that run here, and the optional ones that do not: `{"name", "reason"}`."""

    providers: tuple[Provider, ...]
    skipped: tuple[dict[str, str], ...] = ()


def resolve(name: str, where: str = "measure.providers") -> Provider:
    """The provider that a recipe names: a key of `KNOWN` or any onnxruntime provider name.

    Raises:
        UnsupportedError: nobody knows the name, or this machine cannot run it; the line says what to install.
    """
    known = _known(name)
    if known is None:
        close = difflib.get_close_matches(name, [*KNOWN, *ort.get_all_providers()], n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"use one of {', '.join(KNOWN)}"
        raise UnsupportedError(f"{where}: onnxruntime has no provider '{name}'; {hint}")
    provider, problem = _start(name, known)
    if provider is None:
        raise UnsupportedError(f"{where}: '{name}' does not run here: {problem}; {known.install}")
    return provider


def select(measure: Measure) -> Selection:
    """All providers of a recipe, the required ones first, each once. A name in both lists is optional.

    Raises:
        UnsupportedError: one line for each required provider that does not run here.
    """
    found: list[Provider] = []
    skipped: list[dict[str, str]] = []
    lines: list[str] = []
    for name in dict.fromkeys([*measure.providers, *measure.optional]):
        try:
            found.append(resolve(name))
        except UnsupportedError as problem:
            if name in measure.optional and _known(name) is not None:
                skipped.append({"name": name, "reason": problem.lines[0].split(": ", 1)[1]})
            else:
                lines.extend(problem.lines)
    if not found and not lines:
        lines.append("measure.providers: none of them runs here; add cpu")
    if lines:
        raise UnsupportedError(*lines)
    return Selection(tuple(found), tuple(skipped))


def available() -> list[ProviderInfo]:
    """Every short name, then whatever else this onnxruntime has built in; each was started to see whether it
    runs."""
    names = {known.ort_name for known in KNOWN.values()}
    others = [
        name for name in ort.get_available_providers() if name not in names and name not in _NO_LOCAL_KERNELS
    ]
    return [_info(name) for name in [*KNOWN, *others]]


def _info(name: str) -> ProviderInfo:
    known = _known(name)
    if known is None:
        raise KeyError(name)
    provider, problem = _start(name, known)
    if provider is None:
        return ProviderInfo(name, known.ort_name, False, f"{problem}; {known.install}")
    return ProviderInfo(name, known.ort_name, True, "ready (plugin)" if provider.plugin else "ready")


def _known(name: str) -> Known | None:
    if name in KNOWN:
        return KNOWN[name]
    for known in KNOWN.values():
        if known.ort_name == name:
            return known
    if name in ort.get_all_providers() or name in ort.get_available_providers():
        return Known(name, "needs an onnxruntime that is built with it")
    return None


@cache
def _start(name: str, known: Known) -> tuple[Provider | None, str]:
    """The provider, or None and why not. Cached: starting a GPU takes a second."""
    if known.ort_name == CPU.ort_name:
        return Provider(name, known.ort_name), ""
    # The plugin is looked at second: once registered, its name also appears among the available providers.
    if known.ort_name in ort.get_available_providers() and known.plugin not in _registered:
        provider = Provider(name, known.ort_name, known.device)
    elif known.plugin is not None and importlib.util.find_spec(known.plugin) is not None:
        provider = Provider(name, known.ort_name, known.device, known.plugin)
    else:
        return None, f"onnxruntime {ort.__version__} has no {known.ort_name}"
    try:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # the reason is told once, by us
        session = open_session(_one_node(), options, provider, threads=1)
    except _START_ERRORS as problem:
        return None, reason(problem)
    if known.ort_name not in session.get_providers():
        return None, f"{known.ort_name} is built in but does not start"
    return provider, ""


def open_session(
    model: str | bytes, options: ort.SessionOptions, provider: Provider, threads: int
) -> ort.InferenceSession:
    """A session on `provider`, with the CPU for what it does not take, and never another one in its place.

    Raises:
        ORT_ERRORS: whatever onnxruntime says. UnsupportedError: a plugin that offers no device.
    """
    settings = _settings(provider, threads)
    if provider.plugin is not None:
        options.add_provider_for_devices(_devices(provider)[:1], settings)
        return ort.InferenceSession(model, options, enable_fallback=0)
    listed = [(provider.ort_name, settings)]
    if provider.ort_name != CPU.ort_name:
        listed.append((CPU.ort_name, {}))
    return ort.InferenceSession(model, options, providers=listed, enable_fallback=0)


def _settings(provider: Provider, threads: int) -> dict[str, str]:
    """OpenVINO has threads of its own, all cores by default, and warns about its old option
    `num_of_threads`."""
    if provider.ort_name == "OpenVINOExecutionProvider" and threads > 0:
        return {"load_config": json.dumps({"CPU": {"INFERENCE_NUM_THREADS": str(threads)}})}
    return {}


_registered: set[str | None] = set()


def _devices(provider: Provider) -> list[Any]:
    """The devices that a plugin offers, CPU first: what 'openvino' means is OpenVINO's CPU device."""
    if not hasattr(ort, "register_execution_provider_library"):
        raise UnsupportedError(f"onnxruntime {ort.__version__} takes no plugins")
    if provider.plugin not in _registered:
        library = importlib.import_module(str(provider.plugin)).get_library_path()
        ort.register_execution_provider_library(f"mlcompress.{provider.plugin}", library)
        _registered.add(provider.plugin)
    found = [device for device in ort.get_ep_devices() if device.ep_name == provider.ort_name]
    if not found:
        # The OpenVINO plugin 1.8 offers nothing on a CPU that is not Intel's (onnxruntime pull request
        # 31981).
        raise UnsupportedError(f"{provider.plugin} finds no device that it supports")
    return sorted(found, key=lambda device: device.device.type != ort.OrtHardwareDeviceType.CPU)


def _one_node() -> bytes:
    text = '<ir_version: 8, opset_import: ["" : 13]> probe (float[4] x) => (float[4] y) { y = Relu (x) }'
    return bytes(onnx.parser.parse_model(text).SerializeToString())
