"""The differentiable view of a model: a torch module that runs the ONNX graph and trains its weights."""

import copy
import difflib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from mlcompress import graph as graphs
from mlcompress.errors import ModelError, UnsupportedError
from mlcompress.train.fuse import fuse
from mlcompress.train.ops.node import Node, walk
from mlcompress.train.plan import compile_plan, problems
from mlcompress.train.steps import Plan, execute
from mlcompress.train.values import fold, read, to_ir


def unsupported(model: ir.Model) -> list[str]:
    """What keeps `model` from being trained, one line per op and reason; [] when nothing does."""
    return problems(read(model).nodes)


class Executor(nn.Module):
    """Runs `model` with torch, with gradients.

    Weights are parameters, BatchNormalization statistics persistent buffers, both named as their initializer.
    Weights of 16 bits are kept in float32 and rounded whenever they are read: small steps would be lost, and
    the 1e-8 that Adam adds to a denominator is 0 in float16.
    Those inside If, Loop and Scan too; `_1`, `_2`, ... tell equal names in two bodies apart. A branch that is
    not taken leaves its weights without gradient.
    `train()` and `eval()` decide how BatchNormalization and Dropout behave, whatever mode the file has.
    The model is read once; only `write_back` changes it.
    """

    def __init__(self, model: ir.Model, *, purpose: str = "train", keep_stored: bool = False) -> None:
        """`purpose` completes "cannot ..." in messages. `keep_stored` decodes stored weights in every run
        and keeps weights in the types of the file.

        Raises UnsupportedError that names every op, attribute, input or output without a trainable form.
        """
        super().__init__()
        self.model = model
        graph = read(model)
        lines = problems(graph.nodes)
        if lines:
            tail = "stages that need no gradients still work"
            raise UnsupportedError(*(f"model: cannot {purpose}: {line}; {tail}" for line in lines))
        self._nodes = fold(graph.nodes, graph.constants, keep_stored)
        self._graph = graph
        self._places: dict[str, tuple[dict[str, Any], str]] = {}
        self._narrow: dict[str, torch.dtype] = {}
        self._kept: set[str] = set()
        for name, tensor in graph.trainable.items():
            if tensor.dtype.itemsize == 2 and not keep_stored:
                self._narrow[name], tensor = tensor.dtype, tensor.float()
            self._register(name, nn.Parameter(tensor))
        for name, tensor in graph.statistics.items():
            self._register(name, tensor)
        self._plans: dict[frozenset[str], Plan] = {}
        self._plan(frozenset())

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights by initializer name."""
        return {name: self._tensor(name) for name in self._graph.trainable}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Running means and variances of BatchNormalization by initializer name."""
        return {name: self._tensor(name) for name in self._graph.statistics}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return self._graph.outputs

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Whatever a forward pass without taps reads: weights, statistics and constants by name."""
        return {name: self._tensor(name) for name in self._plan(frozenset()).tensors}

    def freeze(self, patterns: Sequence[str]) -> set[str]:
        """Leave what the globs select (`graph.weights_matching`) as it is: no gradient, and `write_back` does
        not touch it. Returns the names of these weights and statistics.

        A BatchNormalization of which a running mean or variance is selected normalises by both in training
        mode too (as FrozenBatchNorm of Detectron does), so that training sees what the exported graph
        computes.
        """
        chosen = {
            value for found in graphs.weights_matching(self.model, patterns).values() for value in found
        }
        names = {
            name
            for name in (*self._graph.trainable, *self._graph.statistics)
            if self._graph.sources[name] in chosen
        }
        for node in walk(self._nodes):
            if node.op == "BatchNormalization" and names.intersection(node.inputs[3:5]):
                names.update(node.inputs[3:5])
        names &= self._places.keys()  # statistics that are computed have no place
        for name in names & self._graph.trainable.keys():
            self._tensor(name).requires_grad_(False)
        self._kept |= names
        self._nodes = [_frozen(node, names) for node in self._nodes]
        self._plans.clear()
        return names

    def forward(self, inputs: dict[str, Tensor], taps: Collection[str] = ()) -> dict[str, Tensor]:
        """Outputs of the graph by name, and the values named in `taps`.

        `inputs` holds a tensor per graph input, of the declared type and shape. Raises ModelError for a tap
        that the graph does not have, and for inputs that a node cannot take.
        """
        plan = self._plan(frozenset(taps))
        values: dict[str, Any] = dict(plan.literals)
        for name in plan.tensors:
            values[name] = self._value(name)
        for name in self._graph.inputs:
            values[name] = inputs[name]
        device = inputs[self._graph.inputs[0]].device if self._graph.inputs else torch.device("cpu")
        return execute(plan, values, self.training, device)

    def write_back(self) -> None:
        """Put weights and statistics into the model, under the same names and in the same types."""
        for name in (*self._graph.trainable, *self._graph.statistics):
            if name in self._kept:
                continue
            value = self._graph.sources[name]
            numbers = self._tensor(name).to(self._narrow.get(name))
            tensor = to_ir(numbers, str(value.name))  # inside bodies `name` may be another one
            maker = value.producer()
            if maker is None:
                value.const_value = tensor
            else:  # a Constant node, which holds numbers in one of several attributes
                maker.attributes.clear()
                maker.attributes["value"] = ir.AttrTensor("value", tensor)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Executor":
        """A copy with its own weights, of the same model: the last one to write back counts."""
        memo.update({id(shared): shared for shared in (self.model, self._graph, self._nodes)})
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def _plan(self, taps: frozenset[str]) -> Plan:
        """The steps for these taps, one plan per set of taps since peepholes leave tapped values alone."""
        if taps not in self._plans:
            graph = self._graph
            tensors = {**graph.constants, **graph.trainable, **graph.statistics}
            known = {*tensors, *graph.inputs, *(name for node in self._nodes for name in node.outputs)}
            if not taps <= known:
                raise ModelError(*(self._no_such(name, known) for name in sorted(taps - known)))
            wanted = tuple(dict.fromkeys((*graph.outputs, *sorted(taps))))
            nodes = fuse(self._nodes, wanted, {name: tensor.shape for name, tensor in tensors.items()})
            plan = compile_plan(nodes, wanted, tensors)
            device = next((tensor.device for tensor in self.parameters()), torch.device("cpu"))
            for name in plan.tensors:
                if name not in self._places:
                    self._register(name, graph.constants[name].to(device), persistent=False)
            self._plans[taps] = plan
        return self._plans[taps]

    def _register(self, name: str, tensor: Tensor, persistent: bool = True) -> None:
        """Keep `tensor` where `named_parameters()` and `state_dict()` give it this name.

        Dots make a tree of modules, as in torch. The dictionaries are written directly since initializers may
        have names that torch's own methods refuse: two dots in a row, or the name of a module method.
        """
        *path, leaf = name.split(".")
        holder: nn.Module = self
        for part in path:
            holder = holder._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        place = holder._parameters if isinstance(tensor, nn.Parameter) else holder._buffers
        place[leaf] = tensor  # type: ignore[assignment]
        if not persistent:
            holder._non_persistent_buffers_set.add(leaf)
        self._places[name] = (place, leaf)

    def _value(self, name: str) -> Any:
        """What the steps read as `name`: the weight, statistic or constant itself, unless a subclass says
        more."""
        return self._tensor(name).to(self._narrow.get(name))

    def _tensor(self, name: str) -> Any:
        place, leaf = self._places[name]
        return place[leaf]

    def _no_such(self, name: str, known: Collection[str]) -> str:
        for node in self._nodes:
            inner = {output for made in walk([node]) for output in made.outputs}
            if name in inner:
                return f"model: tensor {name!r} is inside {node.op} {node.name}; name one outside of it"
        close = difflib.get_close_matches(name, sorted(known), 1)
        return f"model: no tensor named {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _frozen(node: Node, names: Collection[str]) -> Node:
    """`node` and those inside it, batch norms whose statistics are among `names` without a training mode."""
    node = node.inside(lambda body: replace(body, nodes=tuple(_frozen(inner, names) for inner in body.nodes)))
    if node.op != "BatchNormalization" or not set(names).intersection(node.inputs[3:5]):
        return node
    return replace(node, op="frozen.BatchNormalization")
