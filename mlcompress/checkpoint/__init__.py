"""Checkpoint to graph: what a file or folder is, and how each kind becomes an ONNX graph."""

from mlcompress.checkpoint.load import load

__all__ = ["load"]
