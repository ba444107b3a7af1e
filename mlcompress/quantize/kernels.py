"""What onnxruntime really ran: kernels counted in the profile of one run."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mlcompress import graph

INTEGER_KERNELS = (
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger",
    "QLinearAdd", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool",
)  # fmt: skip
FLOAT_KERNELS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def check_integer_kernels(model: ir.Model, feed: dict[str, np.ndarray] | None = None) -> dict[str, int]:
    """Executed kernels by op type, from one profiled run on the CPU provider at optimisation level ALL.

    `feed` holds the inputs of one run; zeros of the declared shapes (1 where they are dynamic) by default.
    """
    inputs = feed if feed is not None else _zeros(model)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )
    return dict(sorted(ran.items()))


def missing(kernels: dict[str, int], integer_nodes: list[ir.Node]) -> list[str]:
    """One line per kind of node that was meant to run as integers and did not."""
    meant = Counter(node.op_type for node in integer_nodes)
    ran = {
        "Conv": kernels.get("QLinearConv", 0) + kernels.get("ConvInteger", 0),
        "Gemm or MatMul": sum(
            kernels.get(op, 0)
            for op in ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul")
        ),
        "Add": kernels.get("QLinearAdd", 0),
    }
    wanted = {"Conv": meant["Conv"], "Gemm or MatMul": meant["Gemm"] + meant["MatMul"], "Add": meant["Add"]}
    return [
        f"{wanted[kind] - ran[kind]} of {wanted[kind]} {kind} nodes run in float: onnxruntime did not fuse them"
        for kind in wanted
        if ran[kind] < wanted[kind]
    ]


def _zeros(model: ir.Model) -> dict[str, np.ndarray]:
    tensors = graph.signature(model).inputs
    return {
        tensor.name: np.zeros([d if isinstance(d, int) and d > 0 else 1 for d in tensor.shape or ()], tensor.dtype)
        for tensor in tensors
    }
