"""Checkpoint to graph: what a file or folder is, and how each kind becomes an ONNX graph."""

from mlcompress.checkpoint.load import build, check, load

__all__ = ["build", "check", "load"]
