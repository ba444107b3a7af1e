"""What onnxruntime really ran: kernels counted in the profile of one run."""

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mlcompress import graph

KERNEL = "_kernel_time"
"""Ending of a kernel's event in the profile."""


def profile(model: ir.Model, feed: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Name and op type of every kernel of one run on the CPU provider, at optimisation level ALL."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text())
    return [
        (event["name"].removesuffix(KERNEL), event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL)
    ]


def check_integer_kernels(model: ir.Model, feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Executed kernels by op type, from one profiled run of `feed`."""
    return dict(sorted(Counter(op for _, op in profile(model, feed)).items()))


def decoded_at_run_time(
    model: ir.Model, weights: Collection[str], ran: Collection[tuple[str, str]]
) -> list[str]:
    """Those stored `weights` whose decoding `ran` shows: onnxruntime did not fold it at load."""
    names = {name for name, _ in ran}
    return [
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.name in weights and node.name in names
    ]


def missing(kernels: Mapping[str, int], meant: Mapping[str, int]) -> list[str]:
    """One line per kind of node that runs as integers less often than it was `meant` to (op type: count)."""
    ran = {
        "Conv": kernels.get("QLinearConv", 0) + kernels.get("ConvInteger", 0),
        "Gemm or MatMul": sum(
            kernels.get(op, 0)
            for op in (
                "QGemm",
                "QLinearMatMul",
                "MatMulIntegerToFloat",
                "MatMulInteger",
                "DynamicQuantizeMatMul",
            )
        ),
        "Add": kernels.get("QLinearAdd", 0),
    }
    wanted = {
        "Conv": meant.get("Conv", 0),
        "Gemm or MatMul": meant.get("Gemm", 0) + meant.get("MatMul", 0),
        "Add": meant.get("Add", 0),
    }
    return [
        f"{wanted[kind] - ran[kind]} of {wanted[kind]} {kind} nodes run in float; onnxruntime did not fuse"
        for kind in wanted
        if ran[kind] < wanted[kind]
    ]
