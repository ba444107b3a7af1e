"""Removed equals masked, on many random graphs.

    python benchmarks/dependency_fuzz.py [CASES [FIRST_SEED]]

Each case is a random graph over all families of rules and a random half of its channels; where it has
channels behind a normalisation, a second case removes those too. Checked for each: the shortened graph equals
the masked one within 1e-5 of the output's scale at two batch sizes in onnxruntime, the masked one differs
from the original, checker and strict shape inference pass, the parameter count is the predicted one, two
removals equal one byte for byte, and an empty one changes nothing. 2,000 cases by default. Exit status 1
when any fails.
"""

import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlcompress.graph import dependency
from tests.graph.dependency.grow import grow
from tests.graph.dependency.oracle import check, check_two_steps


def cases(seed: int) -> Counter[str]:
    """Results of the graph of this seed."""
    found: Counter[str] = Counter()
    families = dependency.analyse(grow(seed)).families
    found["families"] += len(families)
    for soft in (False, True) if any(family.soft for family in families) else (False,):
        try:
            check(grow(seed), seed=seed, soft=soft, batches=(1, 3))
            check_two_steps(partial(grow, seed), seed, soft=soft)
        except Exception as problem:
            print(f"seed {seed}{', soft' if soft else ''}: {type(problem).__name__}: {str(problem)[:300]}")
            found["failed"] += 1
        found["soft" if soft else "exact"] += 1
    return found


def main() -> int:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    found: Counter[str] = Counter()
    start = time.perf_counter()
    while found["exact"] + found["soft"] < wanted:
        found += cases(seed)
        seed += 1
    print(
        f"{found['exact']} exact and {found['soft']} inexact cases, {found['families']} families: "
        f"{found['failed']} failed, {time.perf_counter() - start:.0f} s"
    )
    return int(found["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
