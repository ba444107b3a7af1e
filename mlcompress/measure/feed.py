"""Inputs of the runs that the stage itself makes."""

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.samples import take
from mlcompress.measure.session import Feeds


def feed(model: ir.Model, context: Context) -> Feeds:
    """Inputs of one run: those that latency is measured with, else samples, else seeded numbers."""
    if context.feed is not None:
        return context.feed
    for data in (context.calibration, context.evaluation, context.train):
        if data is not None and len(data) > 0:
            return take(model, data, 1)
    signature = graph.signature(model)
    return graph.example_feed(signature, graph.example_shapes(signature))
