"""int8 weights of integer kernels, stored in the smallest form that decodes to the same integers."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import AUTO, Chains, Codes, UnfitError, highest_opset, replace, store
from mlcompress.graph.initializers import constant
from mlcompress.quantize.cast import Stored
from mlcompress.quantize.integer import in_domain

READERS = {"DequantizeLinear": 0, "MatMulInteger": 1}
"""Op and the input where an integer weight stands."""
FLOAT_STORAGE = ("plain", "fp16", "bf16", "int8")
"""Encodings that leave int8 numbers as they are."""


def compress(model: ir.Model, storage: str = "auto") -> Stored:
    """Store every int8 initializer that a DequantizeLinear or MatMulInteger reads as `storage`, in place.

    Lossless: the decoded tensors keep their names, numbers and readers. `auto`: the fewest bytes, tensor by
    tensor; `plain`: nothing is changed.
    """
    result = Stored()
    if storage in FLOAT_STORAGE:
        return result
    result.opset = model.opset_imports.get("", 1)
    chains = Chains(model, highest_opset(storage))
    for weight in list(model.graph.initializers.values()):
        array = constant(weight)
        if array is None or array.dtype != np.int8 or not _is_weight(weight):
            continue
        name, codes = str(weight.name), Codes(array, integer=True)
        try:
            form = store(chains, weight, codes, storage)
        except UnfitError as problem:
            result.skipped.append({"name": name, "reason": f"stored plainly, not as {storage}: {problem}"})
            continue
        if form != "plain":
            result.forms[name], result.codes[name] = form, codes
    if storage == AUTO:
        result.codes |= _bias_scales(model, chains)
    return result


def _bias_scales(model: ir.Model, chains: Chains) -> dict[str, Codes]:
    """Scales of biases are input scale times weight scales: a Mul instead of four bytes a channel."""
    found = {}
    for node in list(model.graph):
        makers = [value.producer() if value is not None else None for value in node.inputs]
        if len(makers) != 3 or not all(maker is not None and in_domain(maker, READERS) for maker in makers):
            continue
        scales = [maker.inputs[1] for maker in makers if maker is not None]
        source, weight, bias = (constant(value) for value in scales)
        if source is None or weight is None or bias is None or scales[2] is None:
            continue
        draft = chains.draft()
        product = draft.op("Mul", scales[1], scales[0])
        if draft.bytes() < bias.nbytes and np.array_equal(np.asarray(weight * source, np.float32), bias):
            name, codes = str(scales[2].name), Codes(bias)
            replace(chains, draft, {scales[2]: (product, codes)})
            found[name] = codes
    return found


def _is_weight(value: ir.Value) -> bool:
    return any(in_domain(use.node, READERS) and READERS[use.node.op_type] == use.idx for use in value.uses())
