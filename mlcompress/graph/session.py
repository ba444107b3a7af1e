"""Stock onnxruntime sessions on the CPU provider, and its reasons in one line."""

import re
from pathlib import Path

import onnxruntime as ort

Level = ort.GraphOptimizationLevel

LARGEST_FOLDED = 2**30
"""Bytes: onnxruntime does not fold a larger constant at load, but computes it at every inference."""

ORT_ERRORS: tuple[type[Exception], ...] = (
    *(
        kind
        for kind in vars(ort.capi.onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    RuntimeError,
    ValueError,
    TypeError,
)
"""What creating or running a session raises when the model or the feed is at fault."""


def session(
    model: bytes | Path, level: ort.GraphOptimizationLevel = Level.ORT_ENABLE_ALL
) -> ort.InferenceSession:
    """A silent single-thread CPU session of ModelProto bytes or of a file.

    Raises whatever onnxruntime raises (subclasses of RuntimeError and others); `reason` makes one line of it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # fatal only: the exception says it all
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def reason(error: BaseException) -> str:
    """onnxruntime's message without status codes, source lines and addresses, at most 300 characters."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/\S+\.(?:cc|h):\d+ (?:[\w:<>~]+(?:\([^)]*\))?(?: \[[^\]]*\])? )*", "", text)
    return text if len(text) <= 300 else text[:297] + "..."
