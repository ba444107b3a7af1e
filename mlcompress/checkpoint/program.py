"""Programs of torch.export (`torch.export.save`, usually .pt2)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from mlcompress import console
from mlcompress.checkpoint import export
from mlcompress.checkpoint.archive import open_archive, printable
from mlcompress.checkpoint.program_file import axis_of, description, dtype_of, name_of, tensors
from mlcompress.checkpoint.program_graph import Values, argument, filled, steps
from mlcompress.checkpoint.replay import Replay, check_runs
from mlcompress.errors import ModelError, RecipeError, UnsupportedError, UserError, shorten
from mlcompress.recipe.sections import ModelSection

_WEIGHTS = ("parameter", "buffer", "tensor_constant")


def read(path: Path, spec: ModelSection) -> ir.Model:
    """The cleaned graph of an exported program; weights are named as in its state dict, BatchNormalization is
    kept.

    Nothing of the file is unpickled, evaluated or compiled. Inputs and free axes are the program's;
    `spec.inputs` renames them by position and may fix a free axis, not free a fixed one.

    Raises:
        RecipeError: `model.inputs` does not fit the program.
        UnsupportedError: pickled parts, operators that are not torch's own, branches, state that is written.
        ModelError: the file is damaged, or the program was exported in training mode.
    """
    where = str(path)
    try:
        module, own = _parse(path)
        inputs = _inputs(own, spec, where)
    except UserError as error:
        raise type(error)(
            *(line if line.startswith(where) else f"{where}: {line}" for line in error.lines)
        ) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, RuntimeError):
        raise ModelError(f"{where}: the description of the program in it is damaged; save it again") from None
    check_runs(module, inputs, where)
    return export.to_graph(module, inputs, spec.outputs, where)


def _parse(path: Path) -> tuple[Replay, list[export.Input]]:
    archive = open_archive(path)
    inner = description(archive)["graph_module"]
    graph, signature = inner["graph"], inner["signature"]
    model = name_of(archive)
    weights = tensors(archive, "data/weights/", f"data/weights/{model}_weights_config.json")
    constants = tensors(archive, "data/constants/", f"data/constants/{model}_constants_config.json")
    stored = weights | constants
    bound: dict[str, str] = {}
    taken: list[str] = []
    fixed: Values = {}
    for given, role in zip(graph["inputs"], signature["input_specs"], strict=True):
        (kind, what), *_ = role.items()
        if kind in _WEIGHTS:
            bound[what["arg"]["name"]] = what[f"{kind}_name"]
        elif kind == "user_input" and "as_tensor" in given:
            taken.append(given["as_tensor"]["name"])
        elif kind == "constant_input":
            fixed[what["name"]] = (
                next(iter(what["value"].values())) if "as_none" not in what["value"] else None
            )
        else:
            raise UnsupportedError(
                f"takes an input that is no tensor ({printable(kind)}); export it with tensors only"
            )
    if lost := sorted(set(bound.values()) - set(stored)):
        raise ModelError(f"lacks the weights {shorten(map(printable, lost))}; save it again")
    compute = _computation(graph, list(_results(signature)), bound, fixed, taken)
    used = {name: tensor for name, tensor in stored.items() if name in set(bound.values())}
    return Replay(used, compute), [_declared(name, graph["tensor_values"][name]) for name in taken]


def _results(signature: Mapping[str, Any]) -> Iterator[Any]:
    for role in signature["output_specs"]:
        (kind, what), *_ = role.items()
        if kind != "user_output":
            raise UnsupportedError(
                f"writes state ({printable(kind)} {printable(str(what.get('buffer_name', '')))}), as in "
                "training mode; "
                "call .eval() on the module, and export it again"
            )
        yield argument(what["arg"])


def _computation(
    graph: Mapping[str, Any], results: list[Any], bound: dict[str, str], fixed: Values, taken: list[str]
) -> Any:
    body = steps(graph)

    def compute(weights: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]) -> Any:
        values: Values = {name: weights[weight] for name, weight in bound.items()}
        values |= fixed | dict(zip(taken, inputs, strict=True))
        for step in body:
            step.run(values)
        return filled(results, values)

    return compute


def _declared(name: str, meta: Mapping[str, Any]) -> export.Input:
    shape = tuple(axis_of(size, name) for size in meta["sizes"])
    return export.Input(name, shape, dtype_of(meta["dtype"], name))


def _inputs(own: Sequence[export.Input], spec: ModelSection, where: str) -> list[export.Input]:
    """The program's inputs under the recipe's names; free axes get the recipe's words, or `batch`, `axis_1`,
    ..."""
    if spec.inputs and len(spec.inputs) != len(own):
        raise RecipeError(
            f"{where}: model.inputs: names {len(spec.inputs)} inputs, the program takes {len(own)} "
            f"({printable(', '.join(one.name for one in own))}); give each, in this order"
        )
    words: dict[str, int | str] = {}
    lines: list[str] = []
    for one, (name, given) in zip(own, spec.inputs.items() if spec.inputs else [], strict=False):
        here = f"{where}: model.inputs.{name}"
        if "dtype" in given.model_fields_set and getattr(torch, given.dtype) != one.dtype:
            lines.append(
                f"{here}: is {given.dtype}, the program takes {str(one.dtype).removeprefix('torch.')}"
            )
        lines += _axes(one, given.shape, here, words)
    if lines:
        raise RecipeError(*lines)
    for axis in (size for one in own for size in one.shape if isinstance(size, str)):
        words.setdefault(axis, f"axis_{len(words)}" if words else "batch")
    names = list(spec.inputs) or [one.name for one in own]
    return [
        export.Input(
            name, tuple(words[size] if isinstance(size, str) else size for size in one.shape), one.dtype
        )
        for name, one in zip(names, own, strict=True)
    ]


def _axes(
    one: export.Input, wanted: Sequence[int | str] | None, here: str, words: dict[str, int | str]
) -> Iterator[str]:
    """Note in `words` what the recipe calls the free axes; yields a line for what does not fit."""
    if wanted is None:
        return
    shape = [size if isinstance(size, int) else "free" for size in one.shape]
    if len(wanted) != len(shape):
        yield f"{here}: has {len(wanted)} axes, the program takes {len(shape)} ({shape})"
        return
    for own, asked in zip(one.shape, wanted, strict=True):
        if isinstance(own, str):
            if words.setdefault(own, asked) != asked:
                yield (
                    f"{here}: the axis {asked!r} is the same as {words[own]!r} in the program; give it one "
                    "name"
                )
        elif isinstance(asked, str):
            console.warn(f"{here}: the axis {asked!r} stays {own}: the program was exported with this length")
        elif asked != own:
            yield f"{here}: has the length {asked} where the program takes {own}; export it with a free axis"
