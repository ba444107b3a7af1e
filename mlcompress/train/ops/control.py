"""If, Loop and Scan: ops that run bodies, graphs of their own that also read values from around them.

In a plan each body is a function of a scope, which holds the values from around it, and of its inputs (see
`Routine`). The functions here give

    run(scope, *inputs of the node) -> outputs of the node
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import DEVICE, TRAINING, UNSIGNED, Body, Node, Refusal, Run, op

MANY = 1 << 30
SCOPE = (TRAINING, DEVICE)


@op("If", "cond", host="cond", outputs=MANY, reserved=SCOPE, more=UNSIGNED)
def if_(node: Node, *, then_branch: Any, else_branch: Any) -> Run:
    """One of two bodies without inputs. Weights of the other one get no gradient."""

    def run(scope: Mapping[str, Any], cond: Any) -> list[Tensor]:
        branch = then_branch if _single(cond) else else_branch
        return branch(scope)  # type: ignore[no-any-return]

    return run


@op("Loop", "M cond v_initial*", host="M cond", outputs=MANY, reserved=SCOPE, more=UNSIGNED)
def loop(node: Node, *, body: Any) -> Run:
    """body(i, go, *states) -> go, *states, *rows for i < M while `go`; rows are stacked on a new first axis.

    A row that nothing was stacked for has the lengths that the file declares, 0 where it declares none, as in
    onnxruntime.
    """
    count = max(len(node.inputs) - 2, 0)
    _fits(node, body, 2 + count, 1 + len(node.outputs))

    def run(scope: Mapping[str, Any], most: Any, go: Any = None, *states: Tensor) -> list[Tensor]:
        end = None if most is None else _single(most)
        going = go is None or bool(_single(go))
        values: Sequence[Tensor] = states
        rows: list[list[Tensor]] = []
        while going and (end is None or len(rows) < end):
            flag, *results = body(scope, len(rows), True, *values)
            going = bool(flag)
            values, row = results[:count], results[count:]
            rows.append(row)
        if rows:
            return [*values, *(torch.stack(column) for column in zip(*rows, strict=True))]
        return [*values, *(body.nothing(scope, place) for place in range(1 + count, len(body.outputs)))]

    return run


@op("Scan", "initial_state_and_scan_inputs*", outputs=MANY, reserved=SCOPE, more=UNSIGNED)
def scan(
    node: Node,
    *,
    body: Any,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
) -> Run:
    """body(*states, *slices) -> *states, *rows for the slices of each input along its axis.

    A direction of 1 takes an input from its end, or puts a row before those that are there.
    """
    if node.opset < 9:
        raise Refusal("the form of opset 8 (with a batch axis)")
    count = len(node.inputs) - num_scan_inputs
    _fits(node, body, len(node.inputs), len(node.outputs))
    stacked = len(body.outputs) - count
    axes = list(scan_input_axes or [0] * num_scan_inputs)
    backward = list(scan_input_directions or [0] * num_scan_inputs)
    output_axes = list(scan_output_axes or [0] * stacked)
    output_backward = list(scan_output_directions or [0] * stacked)

    def run(scope: Mapping[str, Any], *inputs: Tensor) -> list[Tensor]:
        states: Sequence[Tensor] = inputs[:count]
        columns = [x.unbind(axis) for x, axis in zip(inputs[count:], axes, strict=True)]
        turned = [c[::-1] if back else c for c, back in zip(columns, backward, strict=True)]
        if len({len(column) for column in turned}) > 1:
            raise RuntimeError(f"inputs of lengths {', '.join(str(len(c)) for c in turned)} along their axes")
        rows = []
        for slices in zip(*turned, strict=True):
            results = body(scope, *states, *slices)
            states, row = results[:count], results[count:]
            rows.append(row)
        made = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(stacked)]
        ordered = [c[::-1] if back else c for c, back in zip(made, output_backward, strict=True)]
        return [*states, *(torch.stack(c, axis) for c, axis in zip(ordered, output_axes, strict=True))]

    return run


def _single(value: Any) -> Any:
    """A number, or the number in a list of one."""
    return value[0] if isinstance(value, list) else value


def _fits(node: Node, body: Body, inputs: int, outputs: int) -> None:
    if len(body.inputs) != inputs or len(body.outputs) < outputs:
        raise Refusal(
            f"attribute body with {len(body.inputs)} inputs and {len(body.outputs)} outputs, where the node "
            f"has {len(node.inputs)} and {len(node.outputs)},"
        )
