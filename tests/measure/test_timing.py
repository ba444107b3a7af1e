import gc
from itertools import chain, cycle, repeat

import pytest

from mlcompress.measure import timing
from tests.measure.models import Hands


def test_warm_up_leaves_the_slow_first_calls_behind() -> None:
    hands = Hands()
    seconds = timing.warm_up(hands.call(chain([0.5, 0.03, 0.02], repeat(0.01))), hands.clock())
    assert seconds == pytest.approx(0.01)


def test_warm_up_takes_at_least_five_calls_and_a_fifth_of_a_second() -> None:
    hands, calls = Hands(), []
    call = hands.call(repeat(0.3))
    timing.warm_up(lambda: (calls.append(1), call()), hands.clock())
    assert len(calls) == 5
    hands = Hands()
    timing.warm_up(hands.call(repeat(0.001)), hands.clock())
    assert hands.now == pytest.approx(0.2, abs=0.01)


def test_warm_up_gives_up_on_calls_that_never_settle() -> None:
    hands = Hands()
    # Each window of 0.1 s holds one call; neighbours differ by a factor of two, so no two windows agree.
    timing.warm_up(hands.call(cycle([0.1, 0.2])), hands.clock())
    assert hands.now == pytest.approx(timing.WARM_CAP, abs=0.2)


def test_blocks_last_five_milliseconds_and_there_are_twelve_rounds() -> None:
    hands = Hands()
    fast, slow = timing.interleave(
        [hands.call(repeat(0.001)), hands.call(repeat(0.02))], repeats=3, clock=hands.clock()
    )
    assert [len(one.seconds) for one in fast] == [12 * 5] * 3
    assert [len(one.seconds) for one in slow] == [12] * 3
    assert fast[0].seconds == pytest.approx(0.001)
    assert slow[2].seconds == pytest.approx(0.02)
    assert fast[1].cpu_seconds == pytest.approx(0.001)
    assert hands.rested == [timing.PAUSE] * 2  # between repeats, not before the first


def test_order_within_a_round_is_random_and_seeded() -> None:
    def order(seed: int) -> str:
        hands, seen = Hands(), []
        names = "ab"
        calls = []
        for name in names:
            step = hands.call(repeat(0.01))
            calls.append(lambda name=name, step=step: (seen.append(name), step()))
        timing.interleave(calls, repeats=2, seed=seed, clock=hands.clock())
        return "".join(seen)[-48:]  # the timed calls: 2 repeats, 12 rounds, 2 models

    first = order(0)
    rounds = [first[i : i + 2] for i in range(0, 48, 2)]
    assert set(rounds) == {"ab", "ba"}  # every round has both, in either order
    assert order(0) == first
    assert order(1) != first


@pytest.mark.parametrize(
    ("once", "counts", "repeats", "rounds"),
    [
        ([0.001], [5], 7, 12),  # 12 rounds of 5 ms: far below the budget
        ([1.0, 1.0], [1, 1], 7, 4),  # 60 s / (7 * 2 s) = 4.3
        ([10.0], [1], 7, 3),  # never below three
    ],
)
def test_slow_models_get_fewer_rounds(
    once: list[float], counts: list[int], repeats: int, rounds: int
) -> None:
    assert timing.rounds_within_budget(once, counts, repeats) == rounds


def test_no_garbage_is_collected_while_timing() -> None:
    hands, states = Hands(), []
    step = hands.call(repeat(0.1))
    timing.interleave([lambda: (states.append(gc.isenabled()), step())], repeats=1, clock=hands.clock())
    assert states[-12:] == [False] * 12
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_a_failure() -> None:
    hands = Hands()
    step = hands.call(repeat(0.1, 8))  # the durations run out in the middle of timing

    def call() -> None:
        try:
            step()
        except StopIteration:
            raise OSError("gone") from None

    with pytest.raises(OSError, match="gone"):
        timing.interleave([call], repeats=1, clock=hands.clock())
    assert gc.isenabled()


def test_a_clock_that_stands_still_ends_nonetheless() -> None:
    hands = Hands(tick=cycle([0.0] * 50_000 + [0.3]).__next__)
    assert timing.warm_up(lambda: None, hands.clock()) > 0


def test_progress_hears_of_every_repeat() -> None:
    hands, steps = Hands(), []
    timing.interleave([hands.call(repeat(0.1))], repeats=4, clock=hands.clock(), advance=steps.append)
    assert steps == [1, 1, 1, 1]
