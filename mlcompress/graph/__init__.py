"""The ONNX graph: load, clean, save, look at, verify. Built on onnx_ir; no torch."""

from mlcompress.graph.clean import clean
from mlcompress.graph.costs import Layer, layers, macs, nonzeros, parameters
from mlcompress.graph.frozen import unfrozen, weights_matching
from mlcompress.graph.load import load
from mlcompress.graph.names import Matches, no_match, nodes_matching, skipped_nodes
from mlcompress.graph.save import copy, file_bytes, save, source, tensor_bytes, to_bytes
from mlcompress.graph.shapes import example_feed, example_shapes, infer_shapes
from mlcompress.graph.signature import Signature, Tensor, known_axis, signature
from mlcompress.graph.stored import Storage, storage
from mlcompress.graph.unused import remove_unused
from mlcompress.graph.verify import verify

__all__ = [
    "Layer",
    "Matches",
    "Signature",
    "Storage",
    "Tensor",
    "clean",
    "copy",
    "example_feed",
    "example_shapes",
    "file_bytes",
    "infer_shapes",
    "known_axis",
    "layers",
    "load",
    "macs",
    "no_match",
    "nodes_matching",
    "nonzeros",
    "parameters",
    "remove_unused",
    "save",
    "signature",
    "skipped_nodes",
    "source",
    "storage",
    "tensor_bytes",
    "to_bytes",
    "unfrozen",
    "verify",
    "weights_matching",
]
