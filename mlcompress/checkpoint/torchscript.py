"""TorchScript archives (`torch.jit.save`): traced modules, and scripted ones whose branches are settled."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from mlcompress.checkpoint import export
from mlcompress.checkpoint.archive import Archive, open_archive, printable
from mlcompress.checkpoint.forward import first_line
from mlcompress.checkpoint.replay import check_runs
from mlcompress.checkpoint.script_graph import replay
from mlcompress.checkpoint.script_source import check_record, vetted
from mlcompress.errors import ModelError, RecipeError, UserError
from mlcompress.recipe.sections import ModelSection

_RECORDS = ("data/", "constants/", "code/")
_FILES = ("data.pkl", "constants.pkl", "version", "byteorder", ".data/version", ".format_version")


def read(path: Path, spec: ModelSection) -> ir.Model:
    """The cleaned graph of a TorchScript archive; weights are named as in its state dict, BatchNormalization
    is kept.

    The archive is looked through before torch opens it (see `script_source`). `spec.inputs` gives the inputs
    in the order of forward, with shapes, which the archive lacks. The graph is compared with the module as
    torch runs it.

    Raises:
        RecipeError: `model.inputs` is missing or does not fit forward.
        UnsupportedError: the code does more than compute, or holds branches, loops or state.
        ModelError: the file is damaged, saved in training mode, or works at one batch size only.
    """
    where = str(path)
    try:
        script = _load(path)
        inputs = _inputs(script, spec, where)
        module = replay(script)
    except UserError as error:
        raise type(error)(*(_placed(where, line) for line in error.lines)) from None
    check_runs(module, inputs, where)
    model = export.to_graph(module, inputs, spec.outputs, where)
    export.compare(model, script, inputs, where)
    return model


def _placed(where: str, line: str) -> str:
    return line if line.startswith(where) else f"{where}: {line}"


def _load(path: Path) -> torch.jit.ScriptModule:
    """The module on the CPU, in eval mode."""
    safe = _rewritten(open_archive(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        try:
            script: Any = torch.jit.load(  # type: ignore[no-untyped-call]
                safe, map_location="cpu"
            )
        except Exception as error:  # torch's parser and unpickler raise all kinds
            raise ModelError(f"torch cannot load this TorchScript archive: {first_line(error)}") from None
    if not hasattr(script, "forward"):
        raise ModelError("has no forward; save a module that has one")
    module: torch.jit.ScriptModule = script.eval()
    return module


def _rewritten(archive: Archive) -> io.BytesIO:
    """An archive of nothing but what was looked at: no second reading of the file can find anything else."""
    safe = io.BytesIO()
    with zipfile.ZipFile(safe, "w", zipfile.ZIP_STORED) as file:
        for name in archive.entries:
            if (not name.startswith(_RECORDS) and name not in _FILES) or name.endswith(".debug_pkl"):
                continue
            data = archive.read(name)
            if name.endswith(".pkl"):
                check_record(name, data)
            if name.startswith("code/"):
                data = vetted(name, data).encode()
            file.writestr(f"model/{name}", data)
    safe.seek(0)
    return safe


def _inputs(script: torch.jit.ScriptModule, spec: ModelSection, where: str) -> list[export.Input]:
    """The recipe's inputs, checked against what forward takes."""
    arguments = script._c._get_method("forward").schema.arguments[1:]
    if odd := [one for one in arguments if str(one.type) not in ("Tensor", "Optional[Tensor]")]:
        raise ModelError(
            f"forward takes {printable(odd[0].name)}, which is no tensor ({printable(str(odd[0].type))}); "
            "trace a module that takes tensors only, or export it to ONNX"
        )
    names = [one.name for one in arguments]
    if not spec.inputs:
        like = ", ".join(f"{name}: {{shape: [batch, ...], dtype: float32}}" for name in names)
        raise RecipeError(
            f"{where}: model.inputs: TorchScript has no shapes; add `model: {{inputs: {{{like}}}}}` to the "
            "recipe, "
            "with the lengths of the axes in place of ..."
        )
    inputs = export.inputs_of(spec, where)
    needed = [one.name for one in arguments if not one.has_default_value()]
    if not len(needed) <= len(inputs) <= len(names):
        raise RecipeError(
            f"{where}: model.inputs: names {len(inputs)} inputs, forward takes {len(names)} "
            f"({printable(', '.join(names))}); give each, in this order"
        )
    return inputs
