"""Which criterion goes with which granularity, and why not."""

UNITS = ("channel", "head", "hidden")
COMPARABLE = frozenset({"lamp", "reconstruction"})
"""Scores that mean the same in every family: `scope: global` takes them as they are."""

_SINGLE = ("element", "n:m")
_REFUSED = {
    ("bn_scale", (*_SINGLE, "kernel")): "a batch norm scales whole channels; use l1",
    ("fpgm", (*_SINGLE, "kernel")): "its distances are those between whole filters; use l1",
    ("reconstruction", (*_SINGLE, "kernel")): "it removes whole inputs; use sparsegpt with single weights",
    ("sparsegpt", (*UNITS, "kernel")): "its update works weight by weight; use reconstruction with channels",
}


def refusal(criterion: str, granularity: str) -> str | None:
    """Why the two do not go together; None where they do."""
    for (name, kinds), reason in _REFUSED.items():
        if name == criterion and granularity in kinds:
            return reason
    return None
