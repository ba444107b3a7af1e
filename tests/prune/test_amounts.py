"""How many units stay: rounding, guards, local and global shares."""

import numpy as np

from mlcompress.prune.amounts import Ranked, below, global_, local


def family(name: str, scores: object, multiple: int = 1, original: int | None = None) -> Ranked:
    values = np.asarray(scores, float)
    return Ranked(name, values, multiple, original or len(values))


def test_local_keeps_the_same_share_of_each() -> None:
    assert local([family("a", range(64), 16), family("b", range(10))], 0.5) == {"a": 32, "b": 5}


def test_shares_refer_to_the_original_count() -> None:
    after_one_step = family("a", range(48), 16, original=64)
    assert local([after_one_step], 0.5) == {"a": 32}


def test_no_family_is_cut_below_a_tenth_or_one_block() -> None:
    assert local([family("a", range(100)), family("b", range(64), 16)], 0.99) == {"a": 10, "b": 16}


def test_global_takes_from_the_family_with_the_flatter_scores() -> None:
    # Family means are 1: `weak` has 50 units near zero, `even` has none.
    weak = family("weak", [0.01] * 50 + [1.99] * 50)
    even = family("even", np.linspace(0.9, 1.1, 100))
    assert global_([weak, even], 0.25) == {"weak": 50, "even": 100}


def test_global_hits_the_share_up_to_rounding() -> None:
    rng = np.random.default_rng(0)
    families = [family(str(n), rng.random(n), 8) for n in (32, 64, 128, 128)]
    kept = sum(global_(families, 0.4).values())
    assert abs(kept - 0.6 * 352) <= 8  # one block


def test_global_does_not_depend_on_the_scale_of_a_family() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(64), rng.random(64)
    assert global_([family("a", a), family("b", b)], 0.5) == global_(
        [family("a", 1000 * a), family("b", b)], 0.5
    )


def test_threshold_keeps_what_reaches_it() -> None:
    assert below([family("a", [0.1, 0.2, 0.3, 0.4])], 0.3) == {"a": 2}


def test_nothing_to_prune_gives_nothing() -> None:
    assert global_([], 0.5) == {}


def test_global_takes_from_the_family_with_negative_scores() -> None:
    """`movement` scores what training moves towards zero below 0: divided by their mean they would be above."""
    towards_zero = family("a", -np.linspace(0.9, 1.1, 100))
    away = family("b", np.linspace(0.9, 1.1, 100))
    assert global_([towards_zero, away], 0.45) == {"a": 10, "b": 100}


def test_global_meets_the_share_where_scores_are_equal() -> None:
    """`apoz` gives 1 to every unit that is always on."""
    counts = global_([family("a", [1.0] * 20), family("b", [0.5] * 5 + [1.0] * 15)], 0.5)
    assert sum(counts.values()) == 20
