"""Channel dependency: which channels, heads and hidden units of a graph can go, and what goes with them."""

from mlcompress.graph.dependency.analysis import Analysis, Dead, analyse
from mlcompress.graph.dependency.families import Family, Member
from mlcompress.graph.dependency.mask import mask
from mlcompress.graph.dependency.remove import remove, shapes_after
from mlcompress.graph.dependency.trace import Frozen

__all__ = [
    "Analysis",
    "Dead",
    "Family",
    "Frozen",
    "Member",
    "analyse",
    "mask",
    "remove",
    "shapes_after",
]
