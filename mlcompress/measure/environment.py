"""The machine and the versions that figures belong to. No host name, no user, no paths, no date."""

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil

from mlcompress import __version__

FLAGS = (
    "avx",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimd",
    "i8mm",
    "sve",
)
"""CPU features that decide which integer kernels onnxruntime takes, in the words of /proc/cpuinfo."""

_CPUINFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def facts() -> dict[str, Any]:
    """JSON types only; what this system does not tell is left out. The load average changes from call to
    call."""
    found: dict[str, Any] = {
        "mlcompress": __version__,
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "torch": getattr(sys.modules.get("torch"), "__version__", None),
        "onnxruntime-ep-openvino": _installed("onnxruntime-ep-openvino"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu().get("model name") or platform.processor() or None,
        "cpu_flags": _flags(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "governor": _read(_GOVERNOR),
    }
    return {name: value for name, value in found.items() if value is not None}


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _flags() -> list[str] | None:
    """Those of `FLAGS` that the CPU has; None where the system has no /proc/cpuinfo."""
    known = _cpu()
    words = set((known.get("flags") or known.get("Features") or "").split())
    return [flag for flag in FLAGS if flag in words] if known else None


@cache
def _cpu() -> dict[str, str]:
    """/proc/cpuinfo's entries for the first core; empty on other systems."""
    first = (_read(_CPUINFO) or "").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
