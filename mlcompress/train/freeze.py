"""What `train.freeze` means for a graph that is about to be trained."""

from collections.abc import Collection, Sequence

from mlcompress import console, graph
from mlcompress.errors import RecipeError
from mlcompress.train.executor import Executor


def freeze(executor: Executor, patterns: Sequence[str], frozen: Collection[str] = ()) -> list[str]:
    """Names of the weights and statistics that `patterns` keep, beside those that are `frozen` anyway.

    A pattern that selects nothing was refused when the command began; what it named may have gone since, with
    a pruned layer or a batch norm that was folded, which is said.

    Raises:
        RecipeError: nothing is left to train.
    """
    if not patterns:
        return []
    for pattern, found in graph.weights_matching(executor.model, patterns).items():
        if not found:
            console.say(f"train.freeze: {pattern!r} selects nothing of the graph that is trained now")
    kept = executor.freeze(patterns)
    if executor.trainable.keys() <= {*frozen, *kept}:
        told = " and ".join(map(repr, patterns))
        raise RecipeError(
            f"train.freeze: none of the {len(executor.trainable)} weights is left to train by {told};"
            " name fewer"
        )
    return sorted(kept)
