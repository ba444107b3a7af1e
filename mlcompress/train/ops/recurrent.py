"""LSTM, GRU and RNN.

Shapes: T steps, N samples, I inputs, H units, D directions, G gates (4 in LSTM, 3 in GRU, 1 in RNN).

    X [T, N, I]   W [D, G H, I]   R [D, G H, H]   B [D, 2 G H] = Wb, Rb   P [D, 3 H]
    sequence_lens [N]   initial_h, initial_c [D, N, H]
    Y [T, D, N, H]   Y_h, Y_c [D, N, H];   with layout 1 the samples come first

Where torch's own kernels compute the same they are used; a loop over the steps does everything else.
`hidden_size` is not needed, the weights tell H.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops import cells
from mlcompress.train.ops.cells import Cell, State, Weights
from mlcompress.train.ops.node import Node, Refusal, Run, is_tracing, op

Kernel = Callable[..., Sequence[Tensor]]
Names = Sequence[str]
Numbers = Sequence[float]

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""ONNX name: for each direction, whether it starts at the end."""


@dataclass(frozen=True)
class _Form:
    """What a node asks for."""

    backward: tuple[bool, ...]
    layout: int
    cells: Sequence[Cell]
    """One for each direction."""
    states: int
    kernel: Kernel | None
    """torch's own function, where it computes the same."""
    order: tuple[int, ...]
    """Places, among the gates of ONNX, of those of torch."""


@op("LSTM", "X W R B sequence_lens initial_h initial_c P", outputs=3)
def lstm(
    node: Node,
    *,
    activations: Names = (),
    activation_alpha: Numbers = (),
    activation_beta: Numbers = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    input_forget: int = 0,
    layout: int = 0,
) -> Run:
    """Gates i, o, f, c."""
    backward = _backward(direction)
    names = _names(activations, ("Sigmoid", "Tanh", "Tanh"), len(backward))
    functions = cells.activations(names, activation_alpha, activation_beta)
    made = [cells.lstm(functions[at : at + 3], clip, bool(input_forget)) for at in range(0, len(names), 3)]
    plain = clip is None and not input_forget and not node.has(7)
    kernel = torch.lstm if plain and _all(names, "sigmoid", "tanh", "tanh") else None
    return _run(_Form(backward, layout, made, 2, kernel, (0, 2, 3, 1)))


@op("GRU", "X W R B sequence_lens initial_h", outputs=2)
def gru(
    node: Node,
    *,
    activations: Names = (),
    activation_alpha: Numbers = (),
    activation_beta: Numbers = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> Run:
    """Gates z, r, h. torch's kernel has the form with `linear_before_reset`."""
    backward = _backward(direction)
    names = _names(activations, ("Sigmoid", "Tanh"), len(backward))
    functions = cells.activations(names, activation_alpha, activation_beta)
    after = bool(linear_before_reset)
    made = [cells.gru(functions[at : at + 2], clip, after) for at in range(0, len(names), 2)]
    kernel = torch.gru if after and clip is None and _all(names, "sigmoid", "tanh") else None
    return _run(_Form(backward, layout, made, 1, kernel, (1, 0, 2)))


@op("RNN", "X W R B sequence_lens initial_h", outputs=2)
def rnn(
    node: Node,
    *,
    activations: Names = (),
    activation_alpha: Numbers = (),
    activation_beta: Numbers = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
) -> Run:
    backward = _backward(direction)
    names = _names(activations, ("Tanh",), len(backward))
    functions = cells.activations(names, activation_alpha, activation_beta)
    made = [cells.rnn([function], clip) for function in functions]
    relu = torch.rnn_relu if clip is None and _all(names, "relu") else None
    kernel = torch.rnn_tanh if clip is None and _all(names, "tanh") else relu
    return _run(_Form(backward, layout, made, 1, kernel, (0,)))


def _backward(direction: str) -> tuple[bool, ...]:
    if direction not in DIRECTIONS:
        raise Refusal(f"attribute direction={direction!r}")
    return DIRECTIONS[direction]


def _names(given: Names, usual: Names, directions: int) -> list[str]:
    """Names of the activations of all directions."""
    names = list(given or [*usual] * directions)
    if len(names) != len(usual) * directions:
        raise Refusal(f"attribute activations={names} ({len(usual) * directions} are needed)")
    return names


def _all(names: Names, *wanted: str) -> bool:
    """Are these the activations of every direction?"""
    return [name.lower() for name in names] == [*wanted] * (len(names) // len(wanted))


def _run(form: _Form) -> Run:
    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        *rest: Tensor | None,
    ) -> tuple[Tensor, ...]:
        x = x.transpose(0, 1) if form.layout else x
        zeros = x.new_zeros(r.shape[0], x.shape[1], r.shape[2])
        given = [*rest, None, None][: form.states]
        state = [zeros if s is None else s.transpose(0, 1) if form.layout else s for s in given]
        if lengths is not None and not is_tracing() and bool((lengths == x.shape[0]).all()):
            lengths = None  # a trace must not depend on the lengths of one run
        if form.kernel is not None and lengths is None and x.shape[0]:
            y, *last = _whole(form.kernel, form, x, w, r, b, state)
        else:
            peepholes = rest[form.states] if len(rest) > form.states else None
            y, *last = _stepwise(form, x, w, r, b, peepholes, state, lengths)
        if form.layout:
            return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in last)
        return y, *last

    return run


def _whole(
    kernel: Kernel, form: _Form, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, state: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """All steps and directions in torch's function."""
    flat = []
    for d in range(len(form.backward)):
        for part in (w[d], r[d], *(() if b is None else b[d].chunk(2))):
            gates = part.chunk(len(form.order))
            flat.append(torch.cat([gates[place] for place in form.order]))
    turned = form.backward == (True,)
    hidden = tuple(state) if form.states > 1 else state[0]
    both = len(form.backward) == 2
    y, *last = kernel(x.flip(0) if turned else x, hidden, flat, b is not None, 1, 0.0, False, both, False)
    y = y.flip(0) if turned else y
    return y.reshape(*y.shape[:2], len(form.backward), -1).transpose(1, 2), *last


def _stepwise(
    form: _Form,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    peepholes: Tensor | None,
    state: Sequence[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    outputs, finals = [], []
    for d, backward in enumerate(form.backward):
        wb, rb = (None, None) if b is None else b[d].chunk(2)
        own = Weights(r[d], rb, None if peepholes is None else peepholes[d])
        entering = F.linear(x, w[d], wb)
        y, last = _direction(form.cells[d](own), entering, tuple(s[d] for s in state), lengths, backward)
        outputs.append(y)
        finals.append(last)
    return torch.stack(outputs, 1), *map(torch.stack, zip(*finals, strict=True))


def _direction(
    step: cells.Step, entering: Tensor, state: State, lengths: Tensor | None, backward: bool
) -> tuple[Tensor, State]:
    """Y [T, N, H] and the last state. Beyond its length a sample gives zeros and keeps its state."""
    steps = entering.unbind(0)
    outputs: list[Tensor] = []
    for t, x in reversed([*enumerate(steps)]) if backward else enumerate(steps):
        new = step(x, state)
        if lengths is None:
            outputs.append(new[0])
        else:
            inside = (t < lengths)[:, None]
            outputs.append(torch.where(inside, new[0], 0.0))
            new = tuple(torch.where(inside, after, before) for after, before in zip(new, state, strict=True))
        state = new
    if lengths is not None:  # a sample without steps ends in zeros, as in onnxruntime
        state = tuple(torch.where((lengths > 0)[:, None], last, 0.0) for last in state)
    if not outputs:
        return entering.new_zeros(0, *state[0].shape), state
    return torch.stack(outputs[::-1] if backward else outputs), state
