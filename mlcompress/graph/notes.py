"""Exporter notes: metadata and doc strings, which hold paths and class names of the exporting machine."""

import re

import onnx_ir as ir

_PATH = re.compile(r"(^|[\s\"'=:])(/|~/|\\\\|[A-Za-z]:\\)\S|\.py\b")
_LINK = re.compile(r"\bhttps?://\S+")
"""A public address, not a path of a machine."""
_EXPORTER_KEY = re.compile(r"^(pkg\.|onnx_utils\.|namespace$)")


def drop_notes(model: ir.Model) -> None:
    """Clear metadata and doc strings of the graphs, nodes and values of the model, in place.

    The model's own metadata (author, licence, labels) and doc string stay, except for exporters' entries and
    for texts with a path in them.
    """
    if model.doc_string and _has_path(model.doc_string):
        model.doc_string = None
    for key in [k for k, v in model.metadata_props.items() if _EXPORTER_KEY.search(k) or _has_path(v)]:
        del model.metadata_props[key]
    for graph in model.graphs():
        graph.name = graph.name or "graph"
        _clear(graph)
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            _clear(value)
            value.meta.pop("quant_parameter_tensor_names", None)
        for node in graph:
            _clear(node)
            for value in node.outputs:
                _clear(value)


def _has_path(text: str) -> bool:
    return _PATH.search(_LINK.sub("", text)) is not None


def _clear(item: ir.Graph | ir.Node | ir.Value) -> None:
    item.metadata_props.clear()
    item.doc_string = None
