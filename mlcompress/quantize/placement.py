"""Which of the nodes that can run as integers do: by rules, or by timing whole candidate graphs.

The rule is a straight line, fitted to whole graphs: integers save time in proportion to multiply-accumulates
and cost a fixed time per kernel, plus a round trip wherever a float op (Hardswish, PRelu, ...) stands between
integer ones. Per-layer figures do not add up well enough to place layers one by one: leaving one Conv out can
cost more than it saves.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress.errors import RecipeError, shorten
from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant
from mlcompress.quantize.fuse import attribute
from mlcompress.quantize.integer import WEIGHTED, Layout, lay_out
from mlcompress.quantize.recipe_weights import STORAGES

MICROSECONDS = {
    "conv_megamacs": 6.9,
    "product_megamacs": 8.7,
    "convs": -0.92,
    "products": -1.18,
    "joins": -0.95,
    "round_trips": -0.18,
    "round_trip_kiloelements": -0.17,
}
"""What one of each quantity saves (or, negative, costs) at batch 1, as integers instead of float.

One thread, onnxruntime 1.32.0, AMD EPYC (Zen 5, avx512_vnni), fp32 minus int8, minimum of 90 interleaved
blocks; least squares with fixed signs, weighted by 1 / fp32 time, over 64 placements of 24 graphs: the
Fashion-MNIST ResNet-14 (also 8-, 16- and 64-wide) and MobileNet, MobileNetV2-like nets of half to four times
its width with Relu6 or Hardswish, EfficientNet-Lite0 at 64, 128 and 224 pixels, MTCNN R-Net, PP-OCR's
classifier, strided plain Conv nets, encoders of width 64, 128, 384. Measured / by the rule: ResNet-14 .45 /
.35, its MobileNet 1.09 / 1.13, EfficientNet-Lite0 .46 / .52, PP-OCR 1.69 / 1.27, R-Net .94 / 1.01,
encoder-384 .33 / .52. `benchmarks/placement_fit.py` fits them anew on nets that it builds.
"""
MARGIN = 1.25
"""Savings must exceed costs by this factor; below it the weights are stored as int8 and computed in float."""

PRODUCTS = ("Gemm", "MatMul")

Sizes = Mapping[str, float]
"""Elements per sample of every observed tensor, by name (from the calibration run, so dynamic axes are
known)."""


def rules(graph: ir.Graph, allowed: Callable[[ir.Node], bool], sizes: Sizes) -> list[str]:
    """Names of the nodes that run as integers, in graph order.

    Each Gemm and MatMul is judged alone, all Convs and what joins them together.
    """
    worth = {node.name for node in lay_out(graph, allowed).nodes if _product_pays(node, sizes)}
    full = lay_out(graph, lambda node: allowed(node) and (node.op_type not in PRODUCTS or node.name in worth))
    if _convolutions_pay(full, sizes):
        return _names(full)
    return _names(lay_out(graph, lambda node: node.name in worth))


def candidates(graph: ir.Graph, allowed: Callable[[ir.Node], bool], sizes: Sizes) -> dict[str, list[str]]:
    """Whole placements worth timing, by name; those that equal an earlier one are left out."""
    choices: dict[str, list[str]] = {"rules": rules(graph, allowed, sizes), "float": []}
    tests: dict[str, Callable[[ir.Node], bool]] = {
        "all": lambda node: True,
        "weighted only": lambda node: node.op_type in WEIGHTED,
        "no depthwise": lambda node: not _is_depthwise(node),
        "no stem": lambda node: not _is_stem(node),
        "products only": lambda node: node.op_type in PRODUCTS,
        "convolutions only": lambda node: node.op_type not in PRODUCTS,
    }
    for name, test in tests.items():
        choices[name] = _names(lay_out(graph, lambda node, test=test: allowed(node) and test(node)))  # type: ignore[misc]
    distinct: dict[str, list[str]] = {}
    for name, nodes in choices.items():
        if nodes not in distinct.values():
            distinct[name] = nodes
    return distinct


def read_plan(path: str) -> dict[str, Any]:
    """`change.details.plan` of a card: `integer` and `plain` node names, and `storage` of other weights.

    Raises RecipeError when the file is missing, is no card, or its run had no plan.
    """
    where = f"quantize.placement.plan: {path}"
    try:
        card = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{where}: no such file; name the card (OUTPUT.json) of an earlier run") from None
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{where}: cannot be read as JSON ({error}); name the card of an earlier run"
        ) from error
    try:
        plan = card["change"]["details"]["plan"]
        found = {"storage": str(plan["storage"])} | {
            key: list(map(str, plan[key])) for key in ("integer", "plain")
        }
    except (KeyError, TypeError):
        raise RecipeError(f"{where}: holds no plan; name the card of a `mode: static` run") from None
    if found["storage"] not in STORAGES:
        raise RecipeError(
            f"{where}: storage {found['storage']!r} is not known; name a card that this version wrote"
        )
    return found


def replay(graph: ir.Graph, names: Iterable[str], path: str) -> list[str]:
    """The planned nodes, checked against this graph. Raises RecipeError for a plan of another model."""
    wanted = list(names)
    chosen = set(wanted)
    found = _names(lay_out(graph, lambda node: node.name in chosen))
    lost = sorted(chosen - set(found))
    if lost:
        raise RecipeError(
            f"quantize.placement.plan: {path}: this model has no such integer nodes: {shorten(lost)}; "
            "the plan belongs to another model, or `skip` keeps them in float"
        )
    return found


def _names(layout: Layout) -> list[str]:
    return [str(node.name) for node in layout.nodes]


def quantities(layout: Layout, sizes: Sizes) -> dict[str, float]:
    """How much of each entry of MICROSECONDS a layout has, at batch 1."""
    found = dict.fromkeys(MICROSECONDS, 0.0)
    for node in layout.nodes:
        if node.op_type == "Conv":
            found["convs"] += 1
            if not _is_depthwise(node):  # neither gains nor loses by itself
                weight = np.asarray(constant(node.inputs[1]))
                found["conv_megamacs"] += sizes[_result(layout, node)] * weight[0].size / 1e6
        elif node.op_type in PRODUCTS:
            found["products"] += 1
            found["product_megamacs"] += _product_megamacs(node, sizes)
        else:
            found["joins"] += 1
    for value in _round_trips(layout):
        found["round_trips"] += 1
        found["round_trip_kiloelements"] += sizes[str(value.name)] / 1e3
    return found


def _product_pays(node: ir.Node, sizes: Sizes) -> bool:
    """A Gemm or MatMul of M x K by K x N saves by its MACs; its input must be quantised."""
    if node.op_type not in PRODUCTS:
        return False
    saved = MICROSECONDS["product_megamacs"] * _product_megamacs(node, sizes)
    cost = MICROSECONDS["products"] + MICROSECONDS["round_trip_kiloelements"] * _input_size(node, sizes) / 1e3
    return saved > MARGIN * -cost


def _convolutions_pay(layout: Layout, sizes: Sizes) -> bool:
    """Convs and what joins them, together; products have been judged by themselves."""
    worth = {
        name: MICROSECONDS[name] * amount
        for name, amount in quantities(layout, sizes).items()
        if not name.startswith("product")
    }
    saved = worth.pop("conv_megamacs")
    return saved > MARGIN * -sum(worth.values())


def _product_megamacs(node: ir.Node, sizes: Sizes) -> float:
    columns = np.asarray(constant(node.inputs[1])).shape[output_axis(node)]
    return float(_input_size(node, sizes) * columns / 1e6)


def _input_size(node: ir.Node, sizes: Sizes) -> float:
    return sizes[str(node.inputs[0].name)] if node.inputs[0] is not None else 0.0


def _result(layout: Layout, node: ir.Node) -> str:
    output = node.outputs[0]
    if output not in layout.roots:
        output = next(iter(output.uses())).node.outputs[0]
    return str(output.name)


def _round_trips(layout: Layout) -> list[ir.Value]:
    """Tensors that pass between integer and float nodes: quantised by one, or dequantised for one."""
    integer = set(layout.nodes) | {
        value.producer() for value, root in layout.roots.items() if value is not root
    }
    crossing = []
    for value in layout.roots:
        leaves = value.is_graph_output() or any(use.node not in integer for use in value.uses())
        if value not in layout.owned or leaves:
            crossing.append(value)
    return crossing


def _is_depthwise(node: ir.Node) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) > 1


def _is_stem(node: ir.Node) -> bool:
    value = node.inputs[0]
    return node.op_type == "Conv" and value is not None and value.is_graph_input()
