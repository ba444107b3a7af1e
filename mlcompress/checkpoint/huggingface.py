"""Hugging Face folders: config.json and safetensors, read with the transformers package, without its
network."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from mlcompress import console
from mlcompress.checkpoint import export
from mlcompress.checkpoint.forward import call, examples, first_line, workable
from mlcompress.checkpoint.huggingface_folder import config, image_size, shown, weights
from mlcompress.checkpoint.state_dict import refuse_infinite
from mlcompress.errors import ModelError, RecipeError, UnsupportedError, shorten
from mlcompress.recipe.sections import ModelInput, ModelSection

_ATTENTION = "eager"
"""Plain matrix products and a softmax. The fused form (sdpa) is no faster in onnxruntime, and leaves the mask
out of the export of some decoders."""
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


def read(folder: Path, spec: ModelSection) -> ir.Model:
    """The cleaned float32 graph of the class that config.json names, with the weights beside it.

    Inputs are those of the task (token ids and masks with free batch and sequence, or pixels), or
    `spec.inputs`; outputs are called as the class calls them, or `spec.outputs`. No code of the folder is
    run, nothing is fetched, and the graph is compared with the module.

    Raises:
        UnsupportedError: transformers is missing, the class is not one of its own, or the weights are no
            safetensors.
        ModelError: config or weights are damaged or do not fit each other.
        RecipeError: `model.inputs` is needed, or does not fit the class.
    """
    where = str(folder)
    described = config(folder)
    with _quiet(where) as library:
        module = _module(library, described, folder)
        inputs = _inputs(module, described, folder, spec)
        outputs = list(spec.outputs) or _output_names(module, inputs, where)
        return export.to_graph(module, inputs, outputs, where)


@contextlib.contextmanager
def _quiet(where: str) -> Iterator[Any]:
    """transformers, without network, progress bars and advice; what is changed in it is put back."""
    try:
        import transformers
        from huggingface_hub import constants
        from transformers.utils import logging
    except ImportError:
        raise UnsupportedError(
            f"{where}: is a Hugging Face folder, and transformers is not installed; "
            'run `pip install "mlcompress[hf]"`'
        ) from None
    offline, level, bars = (
        constants.HF_HUB_OFFLINE,
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
    )
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _module(library: Any, described: dict[str, Any], folder: Path) -> torch.nn.Module:
    """The class in eval mode with the folder's weights in it."""
    name = described["architectures"][0]
    kind: Any = getattr(library, name, None)
    if not _is_model(kind, library):
        raise UnsupportedError(
            f"{folder}: config.json names the class {shown(name)}, which transformers {library.__version__} "
            "does not "
            "have; export it to ONNX, or use `model.factory`"
        )
    wanted = getattr(kind.config_class, "model_type", None)
    if described.get("model_type", wanted) != wanted:
        raise ModelError(
            f"{folder}: config.json names the class {name} and the type {shown(described['model_type'])}, "
            "which belong "
            f"to different models ({wanted}); mend it"
        )
    state = weights(folder)
    try:
        module, told = kind.from_pretrained(
            None,
            config=kind.config_class.from_dict({**described, "use_cache": False, "return_dict": True}),
            state_dict=state,
            attn_implementation=_ATTENTION,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises all kinds for a config that is wrong
        raise ModelError(
            f"{folder}: transformers cannot build {name}: {first_line(error)}; mend config.json"
        ) from None
    _check_match(told, len(module.state_dict()), name, str(folder))
    refuse_infinite(module, module.state_dict(), str(folder))
    loaded: torch.nn.Module = module.eval()
    return loaded


def _is_model(kind: Any, library: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, library.PreTrainedModel)


def _check_match(told: dict[str, Any], count: int, name: str, where: str) -> None:
    missing, mismatched = sorted(told["missing_keys"]), sorted(told["mismatched_keys"])
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {count} tensors missing ({shorten(missing, 3)})")
    if mismatched:
        first, theirs, ours = mismatched[0]
        more = f"; also {shorten((one[0] for one in mismatched[1:]), 2)}" if len(mismatched) > 1 else ""
        parts.append(
            f"{len(mismatched)} of another shape ({first} is {list(theirs)}, the config's {list(ours)}{more})"
        )
    if told["error_msgs"]:
        parts.append(str(told["error_msgs"][0]).splitlines()[0])
    if parts:
        raise ModelError(
            f"{where}: the weights do not fit {name} of config.json: {', '.join(parts)}; mend one of them"
        )
    if unexpected := sorted(told["unexpected_keys"]):
        console.warn(
            f"{where}: {len(unexpected)} tensors that {name} does not have are left out "
            f"({shorten(unexpected, 3)})"
        )


def _inputs(module: Any, described: dict[str, Any], folder: Path, spec: ModelSection) -> list[export.Input]:
    """The recipe's inputs, filled up with what is known of them, or all that is known."""
    parameters = list(inspect.signature(module.forward).parameters)
    known = _known(module, described, folder, parameters)
    if not spec.inputs:
        if not known:
            main = getattr(module, "main_input_name", parameters[0])
            raise RecipeError(
                f"{folder}: model.inputs: what {type(module).__name__} takes cannot be told; add "
                f"`model: {{inputs: {{{main}: {{shape: [batch, ...], dtype: float32}}}}}}` to the recipe, "
                "with the lengths "
                "of the axes in place of ..."
            )
        return export.inputs_of(spec.model_copy(update={"inputs": known}), str(folder))
    if odd := [name for name in spec.inputs if name not in parameters]:
        raise RecipeError(
            f"{folder}: model.inputs: {type(module).__name__} takes no {shorten(odd)}; it takes "
            f"{shorten(parameters, 8)}"
        )
    filled = {
        name: known[name].model_copy(update={key: getattr(given, key) for key in given.model_fields_set})
        if name in known
        else given
        for name, given in spec.inputs.items()
    }
    return export.inputs_of(spec.model_copy(update={"inputs": filled}), str(folder))


def _known(
    module: Any, described: dict[str, Any], folder: Path, parameters: list[str]
) -> dict[str, ModelInput]:
    """Inputs of models of text and of images; none where a recipe has to say it."""
    main = getattr(module, "main_input_name", "")
    if module.config.is_encoder_decoder:
        return {}
    if main == "input_ids":
        types = getattr(module.config, "type_vocab_size", 1) > 1
        names = [name for name in _TEXT if name in parameters and (types or name != "token_type_ids")]
        return {name: ModelInput(shape=["batch", "sequence"], dtype="int64") for name in names}
    if main == "pixel_values":
        size = image_size(folder, described)
        channels = getattr(module.config, "num_channels", 3)
        return {main: ModelInput(shape=["batch", channels, *size], dtype="float32")} if size else {}
    return {}


def _output_names(module: torch.nn.Module, inputs: list[export.Input], where: str) -> list[str]:
    """As the class calls them; those of a group get numbers."""
    given = examples(inputs, workable(module, inputs, where))
    with torch.no_grad():
        made = module(**{one.name: tensor for one, tensor in zip(inputs, given, strict=True)})
        count = len(call(module, inputs, given))
    names: list[str] = []
    for key, value in made.items():
        parts = 1 if isinstance(value, torch.Tensor) else len(value)
        names += [key] if isinstance(value, torch.Tensor) else [f"{key}_{k}" for k in range(parts)]
    taken = {one.name for one in inputs}
    return names if len(names) == count and not taken & set(names) else []
