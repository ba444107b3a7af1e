"""Models as ONNX text, written to a file of the test's own folder."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import onnx
import pytest

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(graph_text, header=...)` writes a model and returns its path."""

    def written(graph: str, header: str = HEADER, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        proto = onnx.parser.parse_model(header + dedent(graph))
        for tensor in proto.graph.initializer:
            # The parser does not pack these.
            if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
                values = list(tensor.int32_data)
                tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values))
        path.write_bytes(proto.SerializeToString())
        return path

    return written
