"""The rule table: one function per op family says how axes of inputs and outputs belong together.

A rule reads the axes of the inputs, sets those of the outputs and records what must go together. A rewrite
mends what a node says about lengths (groups, sizes, targets) after channels have gone; most ops need none.
"""

from collections.abc import Callable

import onnx_ir as ir

from mlcompress.graph.dependency.cut import Cut
from mlcompress.graph.dependency.trace import Trace

Rule = Callable[[ir.Node, Trace], None]
Rewrite = Callable[[ir.Node, Cut], None]

RULES: dict[str, Rule] = {}
REWRITES: dict[str, Rewrite] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a function for these op types (`domain::Op` outside the standard domain)."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"two rules for {op}")
            RULES[op] = function
        return function

    return register


def rewrite(*ops: str) -> Callable[[Rewrite], Rewrite]:
    """Register what mends these op types after removal."""

    def register(function: Rewrite) -> Rewrite:
        for op in ops:
            if op in REWRITES:
                raise ValueError(f"two rewrites for {op}")
            REWRITES[op] = function
        return function

    return register
