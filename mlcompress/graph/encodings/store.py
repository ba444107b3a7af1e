"""Puts a stored form in the place of an initializer, and finds the smallest."""

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import sparse
from mlcompress.graph.encodings.chain import FOUR_BITS_OPSET, TWO_BITS_OPSET, Chains, Draft
from mlcompress.graph.encodings.codes import Codes, UnfitError, encodings
from mlcompress.graph.encodings.forms import VALUES, with_values
from mlcompress.graph.initializers import constant

AUTO = "auto"
_SPARSE = {"bitmask": sparse.bitmask, "relative": sparse.relative, "rice": sparse.rice_gaps}
_SPARSE_FROM = 0.1
"""Share of zeros below which no sparse form can be smaller than a dense one."""
_SIMPLE = ("int8", "fp16", "bf16", "int4", "uint4", "int2", "uint2", "codebook", "packed")


def highest_opset(encoding: str) -> int:
    """The operator set that a model may be raised to for an encoding: 25 only for 2-bit types asked for."""
    return TWO_BITS_OPSET if encoding in ("int2", "uint2") else FOUR_BITS_OPSET


def store(chains: Chains, weight: ir.Value, codes: Codes, encoding: str = AUTO) -> str:
    """Replace the initializer `weight` by a stored form; the decoded tensor keeps its name. Gives the form.

    `encoding`: a name of the registry, or `auto` for the one of the fewest bytes. Raises UnfitError, a
    ValueError, when the numbers cannot be stored so, or when a decoded tensor is too large to be folded.
    """
    graph, name = chains.insertion.graph, str(weight.name)
    if graph.initializers.get(name) is not weight:
        raise ValueError(f"{name} is not an initializer")
    form, draft, decoded = smallest(chains, codes) if encoding == AUTO else write(chains, codes, encoding)
    replace(chains, draft, {weight: (decoded, codes)})
    return form


def store_smallest(model: ir.Model, names: Collection[str], encoding: str = AUTO) -> dict[str, Codes]:
    """Store float32 initializers as they are, bit for bit, in the smallest form (or `encoding`), in place.

    For weights with zeros, few distinct values or fp16 numbers. Gives what was stored, by name; a weight that
    no form makes smaller, or that does not fit, is left alone.
    """
    chains, stored = Chains(model, highest_opset(encoding)), {}
    for name in names:
        weight = model.graph.initializers[name]
        array = constant(weight)
        if array is None or array.dtype != np.float32 or weight.is_graph_output():
            continue
        codes = Codes(array)
        try:
            form, draft, decoded = (
                smallest(chains, codes) if encoding == AUTO else write(chains, codes, encoding)
            )
        except UnfitError:
            continue
        if form != "plain":
            replace(chains, draft, {weight: (decoded, codes)})
            stored[name] = codes
    return stored


def unfit(model: ir.Model, name: str, encoding: str = AUTO) -> str | None:
    """Why `store_smallest` would leave an initializer alone whatever zeros it holds; None where it may not.

    auto: no sparse form can be decoded; other forms shrink weights of few distinct numbers only.
    """
    weight = model.graph.initializers[name]
    array = constant(weight)
    if array is None or array.dtype != np.float32:
        return f"{name} is not float32"
    if weight.is_graph_output():
        return f"{name} is an output of the graph"
    chains, example = Chains(model, highest_opset(encoding)), np.zeros((8, 8), np.float32)
    example[::2] = array.reshape(-1)[0] or 1
    problem = None
    for form in _SPARSE if encoding == AUTO else (encoding,):
        try:
            _, draft, _ = write(chains, Codes(example), form)
            draft.need(array.size)
            draft.discard()
            return None
        except UnfitError as error:
            problem = str(error)
    return problem


def replace(chains: Chains, draft: Draft, decoded: dict[ir.Value, tuple[ir.Value, Codes]]) -> None:
    """Put a draft into the graph; what it decodes takes over names and readers of initializers."""
    graph, insertion = chains.insertion.graph, chains.insertion
    for weight, (value, codes) in decoded.items():
        name = str(weight.name)
        del graph.initializers[name]
        weight.name = f"{name}/replaced"
        insertion.release(name)
        value.name = name
        value.type, value.shape = ir.TensorType(codes.kind), ir.Shape(codes.decoded_shape)
    chains.commit(draft)
    for weight, (value, _) in decoded.items():
        ir.convenience.replace_all_uses_with(weight, value, replace_graph_outputs=True)


def write(chains: Chains, codes: Codes, encoding: str) -> tuple[str, Draft, ir.Value]:
    """A draft of one encoding, and the value that it decodes to."""
    draft = chains.draft()
    try:
        if encoding != "plain":
            draft.need(codes.stored.size)
        return encoding, draft, encodings[encoding](draft, codes)
    except UnfitError:
        draft.discard()
        raise


def smallest(chains: Chains, codes: Codes) -> tuple[str, Draft, ir.Value]:
    """The draft of the fewest bytes; of two that are equal, the simpler one."""
    best = write(chains, codes, "plain")
    least = best[1].bytes()
    for trial in _trials(chains, codes):
        size = trial[1].bytes()
        if size < least:
            best, trial, least = trial, best, size
        trial[1].discard()
    return best


def _trials(chains: Chains, codes: Codes) -> Iterator[tuple[str, Draft, ir.Value]]:
    for name in _SIMPLE:
        try:
            yield write(chains, codes, name)
        except UnfitError:
            continue
    if sparse.share_of_zeros(codes.stored) < _SPARSE_FROM:
        return
    for name, positions in _SPARSE.items():
        for inner, form in VALUES.items():
            draft = chains.draft()
            try:
                draft.need(codes.stored.size)
                decoded = with_values(draft, codes, positions, form)
            except UnfitError:
                draft.discard()
                continue
            yield (name if inner == "itself" else f"{name} x {inner}"), draft, decoded
