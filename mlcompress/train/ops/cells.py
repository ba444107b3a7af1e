"""One step of LSTM, GRU and RNN in one direction, for the loop over the steps.

    step(X_t W^T + Wb, state) -> state          the hidden state H first, in LSTM then the cell state C

`.` multiplies element by element, P are the peepholes of LSTM, f, g, h the activations in ONNX's order.
What goes into f and g is first clipped to [-clip, clip] where the node asks for it; what goes into h, the
cell state of LSTM, is not, as in onnxruntime.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Refusal

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weights:
    """Those of one direction."""

    recurrent: Tensor
    """R [G H, H]"""
    bias: Tensor | None
    """Rb [G H]"""
    peepholes: Tensor | None
    """P [3 H]"""


Cell = Callable[[Weights], Step]


def rnn(functions: Sequence[Function], clip: float | None) -> Cell:
    """H = f(Xi + H Ri^T + Rbi)"""
    f = _clipped(functions[0], clip)

    def cell(own: Weights) -> Step:
        return lambda x, state: (f(x + F.linear(state[0], own.recurrent, own.bias)),)

    return cell


def lstm(functions: Sequence[Function], clip: float | None, coupled: bool) -> Cell:
    """i = f(Xi + H Ri^T + Rbi + Pi . C)     f likewise, or 1 - i when they are `coupled`

    C' = f . C + i . g(Xc + H Rc^T + Rbc)
    o = f(Xo + H Ro^T + Rbo + Po . C')
    H' = o . h(C')
    """
    f, g = (_clipped(function, clip) for function in functions[:2])
    h = functions[2]

    def cell(own: Weights) -> Step:
        of_input, of_output, of_forget = (
            (None, None, None) if own.peepholes is None else own.peepholes.chunk(3)
        )

        def step(x: Tensor, state: State) -> State:
            hidden, cell = state
            i, o, forget, c = (x + F.linear(hidden, own.recurrent, own.bias)).chunk(4, -1)
            i = f(_peep(i, of_input, cell))
            forget = 1 - i if coupled else f(_peep(forget, of_forget, cell))
            cell = forget * cell + i * g(c)
            return f(_peep(o, of_output, cell)) * h(cell), cell

        return step

    return cell


def gru(functions: Sequence[Function], clip: float | None, reset_after: bool) -> Cell:
    """z = f(Xz + H Rz^T + Rbz)     r likewise

    h = g(Xh + (r . H) Rh^T + Rbh), or g(Xh + r . (H Rh^T + Rbh)) with `reset_after`
    H' = (1 - z) . h + z . H
    """
    f, g = (_clipped(function, clip) for function in functions)

    def cell(own: Weights) -> Step:
        units = own.recurrent.shape[1]
        parts = [2 * units, units]
        gates, new = torch.split(own.recurrent, parts)
        gate_bias, new_bias = (None, None) if own.bias is None else torch.split(own.bias, parts)

        def step(x: Tensor, state: State) -> State:
            (hidden,) = state
            x_gates, x_new = torch.split(x, parts, -1)
            z, r = f(x_gates + F.linear(hidden, gates, gate_bias)).chunk(2, -1)
            if reset_after:
                proposed = g(x_new + r * F.linear(hidden, new, new_bias))
            else:
                proposed = g(x_new + F.linear(r * hidden, new, new_bias))
            return ((1 - z) * proposed + z * hidden,)

        return step

    return cell


def _peep(gate: Tensor, peephole: Tensor | None, cell: Tensor) -> Tensor:
    return gate if peephole is None else gate + peephole * cell


def activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Function]:
    """The functions by their ONNX names, whatever the case.

    Alphas and betas are consumed in order by the functions that have one; when they run out the defaults of
    the ONNX operators count, as in onnxruntime. Raises Refusal for other names and for a missing parameter.
    """
    left = {"alpha": list(alphas), "beta": list(betas)}
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise Refusal(f"attribute activations with {name!r}")
        make, defaults = _ACTIVATIONS[name.lower()]
        parameters = []
        for parameter, default in zip(("alpha", "beta"), defaults, strict=False):
            value = left[parameter].pop(0) if left[parameter] else default
            if value is None:
                raise Refusal(f"attribute activation_{parameter} without a value for {name}")
            parameters.append(value)
        found.append(make(*parameters))
    for parameter, rest in left.items():
        if rest:
            raise Refusal(f"attribute activation_{parameter} with more values than {', '.join(names)} take")
    return found


def _clipped(function: Function, clip: float | None) -> Function:
    if clip is not None and clip <= 0:
        raise Refusal(f"attribute clip={clip}")
    return function if clip is None else lambda x: function(x.clamp(-clip, clip))


_ACTIVATIONS: dict[str, tuple[Callable[..., Function], tuple[float | None, ...]]] = {
    "affine": (lambda alpha, beta: lambda x: alpha * x + beta, (None, None)),
    "elu": (lambda alpha: lambda x: F.elu(x, alpha), (1.0,)),
    "hardsigmoid": (lambda alpha, beta: lambda x: F.hardtanh(alpha * x + beta, 0.0, 1.0), (0.2, 0.5)),
    "leakyrelu": (lambda alpha: lambda x: F.leaky_relu(x, alpha), (0.01,)),
    "relu": (lambda: torch.relu, ()),
    "scaledtanh": (lambda alpha, beta: lambda x: alpha * torch.tanh(beta * x), (None, None)),
    "sigmoid": (lambda: torch.sigmoid, ()),
    "softplus": (lambda: F.softplus, ()),
    "softsign": (lambda: F.softsign, ()),
    "tanh": (lambda: torch.tanh, ()),
    "thresholdedrelu": (lambda alpha: lambda x: F.threshold(x, alpha, 0.0), (None,)),
}
"""ONNX name, in lower case: function of alpha and beta, and their defaults.

None: ONNX has no default, or (ThresholdedRelu) onnxruntime has another one.
"""
