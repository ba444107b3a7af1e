"""Recurrent layers."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.rules import rewrite, rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.operands import operand, optional

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@rule(*GATES)
def recurrent(node: ir.Node, trace: Trace) -> None:
    """Hidden unit h is an element of each gate block of W [D, G*H, I], R [D, G*H, H], B [D, 2GH], P [D, 3H].

    Both directions of a bidirectional layer lose the same units. Sums run over I with the input, and over
    R.ax2 with the state. H is the last axis of Y and of the states in both layouts.
    """
    x, w, r = operand(node, 0), operand(node, 1), operand(node, 2)
    gates = GATES[node.op_type]
    inputs, recurrence = trace.of(w), trace.of(r)
    hidden = recurrence[2]
    if hidden is None or inputs[1] is None or recurrence[1] is None:
        trace.opaque(node, "its weights are not initializers")
        return
    trace.kinds.append((hidden, "rnn"))
    for axes in (inputs, recurrence):
        trace.atoms.freeze(axes[0])
        trace.atoms.unify(np.tile(hidden, gates), axes[1])
    for index, blocks in ((3, 2 * gates), (7, 3)):
        parameter = optional(node, index)
        if parameter is not None:
            trace.atoms.freeze(trace.of(parameter)[0])
            trace.atoms.unify(np.tile(hidden, blocks), trace.of(parameter)[1])
    source = trace.of(x)
    trace.atoms.unify(source[2], inputs[2])
    trace.reads(node, w, 2, x, 2)
    trace.reads(node, r, 2, None)
    trace.makes(node, w, 1)
    trace.makes(node, r, 1)
    trace.keep(node, source[:2], "recurs over this axis")
    for index in (5, 6):
        state = optional(node, index)
        if state is not None:
            for axis in trace.of(state)[:2]:
                trace.atoms.freeze(axis)
            trace.atoms.unify(hidden, trace.of(state)[2])
    for index, value in enumerate(node.outputs):
        trace.set(value, [None] * (3 if index == 0 else 2) + [hidden])


@rewrite(*GATES)
def fewer_units(node: ir.Node, cut: Cut) -> None:
    """hidden_size."""
    length = cut.length(operand(node, 2), 2)
    if length is not None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", length)
