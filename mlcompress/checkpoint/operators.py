"""Operators of torch that a file may name, and how they are called."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mlcompress.errors import ModelError, UnsupportedError

_SIDE_EFFECTS_NAMES = """
save load from_file manual_seed seed initial_seed set_grad_enabled wait print fork owner
owner_name to_here local_value confirmed_by_owner is_owner get_gradients backward set_data set_
requires_grad_ retain_grad rename_ resize_ resize_as_ resize resize_as record_stream pin_memory
is_pinned set_autocast_enabled debugprims
"""
SIDE_EFFECTS = frozenset(_SIDE_EFFECTS_NAMES.split())
"""Operators that read or write files, wait, print, or change more than their result. They are never
called."""
_INNER_NAMES = """
_convolution _convolution_mode _softmax _log_softmax _unsafe_view _to_copy _shape_as_tensor
_reshape_alias _unwrap_optional _native_batch_norm_legit _native_batch_norm_legit_no_training
_batch_norm_no_update _native_batch_norm_legit_functional _batch_norm_with_update
_batch_norm_impl_index _weight_norm _weight_norm_interface _adaptive_avg_pool2d
_adaptive_avg_pool3d _prelu_kernel _trilinear _assert_scalar _assert_tensor_metadata _assert_async
_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
_upsample_lanczos2d_aa _upsample_bicubic2d_aa _upsample_bilinear2d_aa _pack_padded_sequence
_pad_packed_sequence _cast_Float _cast_Long _cast_Int _is_all_true _is_any_true _safe_softmax
_fft_r2c _fft_c2r _fft_c2c __is__ __isnot__ __not__ __and__ __or__ __xor__ __lshift__ __rshift__
__getitem__ __contains__ __derive_index __range_length __interpolate __upsample
__round_to_zero_floordiv _infer_size
"""
INNER = frozenset(_INNER_NAMES.split())
"""Of the names that begin with an underscore those that models use; the others do not check what they are
given."""
_PRIMITIVES_NAMES = """
NumToTensor RaiseException TupleIndex ModuleContainerIndex Uninitialized unchecked_cast
unchecked_unwrap_optional device dtype layout data min max abs is_cpu is_cuda is_meta is_mkldnn is_mps
is_nested is_quantized is_sparse is_xla is_xpu requires_grad type id isinstance
"""
PRIMITIVES = frozenset(_PRIMITIVES_NAMES.split())
"""Steps of TorchScript that are no operators."""
_DROPOUT = frozenset(
    [
        "dropout",
        "dropout_",
        "native_dropout",
        "feature_dropout",
        "feature_dropout_",
        "alpha_dropout",
        "alpha_dropout_",
        "feature_alpha_dropout",
        "feature_alpha_dropout_",
        "rrelu",
        "rrelu_",
        "rrelu_with_noise",
    ]
)
_BATCH_NORM = frozenset(
    [
        "batch_norm",
        "native_batch_norm",
        "cudnn_batch_norm",
        "_batch_norm_impl_index",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
    ]
)
"""Without running statistics (`track_running_stats=False`, InstanceNorm) they use the batch in any mode."""
_AGAIN = "call .eval() on the module and save it again"

Operator = Any
"""torch.ops.aten.relu.default and the like."""


def refusal(namespace: str, name: str) -> str | None:
    """Why an operator that a file names is never called, or None where it may be."""
    if namespace in ("quantized", "_quantized", "onednn", "sparse"):
        return f"the operator {namespace}::{name} belongs to a quantised module; give the float module"
    if namespace in ("mkldnn", "mkldnn_prepacked", "mkl", "static_runtime", "inductor"):
        return f"the operator {namespace}::{name} is left by torch's optimisers; save the module before them"
    if namespace not in ("aten", "prim", "prims") or (namespace == "prim" and name not in PRIMITIVES):
        return f"the operator {namespace}::{name} is not torch's own; only torch's own operators are read"
    if name in SIDE_EFFECTS:
        return (
            f"the operator {namespace}::{name} does more than compute, and is never run; save the module "
            "without it"
        )
    if name.startswith("_") and name not in INNER:
        return f"the operator {namespace}::{name} is internal to torch; save the module without it"
    return None


def find(namespace: str, name: str, overload: str) -> Operator:
    """The operator `namespace::name.overload`.

    Raises UnsupportedError for those that are never called and those that this torch does not have.
    """
    if reason := refusal(namespace, name):
        raise UnsupportedError(reason)
    packet = getattr(getattr(torch.ops, namespace), name, None)
    found = getattr(packet, overload or "default", None)
    if not isinstance(found, torch._ops.OpOverload):
        raise UnsupportedError(
            f"this torch ({torch.__version__}) has no operator {namespace}::{name}; "
            "save the module with the same version"
        )
    return found


def apply(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What the operator gives. Numbers are taken for tensors of one element, as torch's own files have them.

    Raises ModelError for an operator in training mode.
    """
    declared = operator._schema.arguments
    named = dict(zip((one.name for one in declared), args, strict=False)) | dict(kwargs)
    _refuse_training(operator._schema.name.partition("::")[2], named)
    for one in declared:
        value = named.get(one.name)
        if str(one.type) == "Tensor" and isinstance(
            value, bool | int | float | torch.SymInt | torch.SymFloat
        ):
            named[one.name] = _as_tensor(value)
    leading = []
    for one in declared:
        if one.kwarg_only or one.name not in named:
            break
        leading.append(named.pop(one.name))
    if operator._schema.name == "aten::_convolution":
        # Exporters know the public form only; what it lacks are switches of GPU kernels.
        return torch.ops.aten.convolution.default(*leading[:9])
    return operator(*leading, **named)


def _refuse_training(name: str, given: dict[str, Any]) -> None:
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and given.get("train"):
        if given.get("dropout"):
            raise ModelError(f"was saved in training mode ({name} drops out); {_AGAIN}")
        given["train"] = False
    batch = given.get("training") or given.get("train")
    if name in _DROPOUT and batch:
        raise ModelError(f"was saved in training mode ({name} drops out); {_AGAIN}")
    if name in _BATCH_NORM and batch and given.get("running_mean") is not None:
        raise ModelError(f"was saved in training mode ({name} uses the statistics of the batch); {_AGAIN}")
    if name == "scaled_dot_product_attention" and given.get("dropout_p"):
        raise ModelError(f"was saved in training mode ({name} drops out); {_AGAIN}")


def _as_tensor(value: Any) -> torch.Tensor:
    kinds = ((bool, torch.bool), ((int, torch.SymInt), torch.int64))
    dtype = next((dtype for kind, dtype in kinds if isinstance(value, kind)), torch.float32)
    return torch.scalar_tensor(value, dtype=dtype)
