"""Augmentation of training batches."""

import numpy as np
import pytest

from mlcompress.data import Batch, from_arrays
from mlcompress.data.augment import augment
from mlcompress.errors import DataError
from mlcompress.recipe.train import Augment

ALL = [{"flip": "horizontal"}, {"shift": 2}]
KEY = (0, 1)


def steps(*entries: dict[str, object]) -> list[Augment]:
    return [Augment.model_validate(entry) for entry in entries]


def images(count: int = 64, shape: tuple[int, ...] = (3, 6, 5)) -> Batch:
    rng = np.random.default_rng(0)
    arrays = {"image": rng.normal(size=(count, *shape)).astype(np.float32)}
    return from_arrays(arrays, np.arange(count) % 4).take(np.arange(count))


def part(batch: Batch, ids: np.ndarray) -> Batch:
    assert batch.labels is not None
    return Batch(
        {name: array[ids] for name, array in batch.inputs.items()}, batch.labels[ids], batch.ids[ids]
    )


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 3), ("vertical", 2)])
def test_flip_mirrors_about_half_of_the_images(direction: str, axis: int) -> None:
    batch = images(400)
    before, after = batch.inputs["image"], augment(batch, steps({"flip": direction}), KEY).inputs["image"]
    mirrored = np.flip(before, axis)
    same, turned = ((after == other).all(axis=(1, 2, 3)) for other in (before, mirrored))
    assert (same ^ turned).all()
    # 400 fair coins: standard deviation 10, so 5 of them around 200
    assert 150 < turned.sum() < 250


def test_shift_is_a_crop_of_the_edge_padded_image() -> None:
    batch = images(200)
    before, after = batch.inputs["image"], augment(batch, steps({"shift": 2}), KEY).inputs["image"]
    padded = np.pad(before, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    crops = {(r, c): padded[:, :, r : r + 6, c : c + 5] for r in range(5) for c in range(5)}
    hits = {place: (crop == after).all(axis=(1, 2, 3)).sum() for place, crop in crops.items()}
    assert sum(hits.values()) == 200
    assert (
        min(hits.values()) > 0
    )  # each of the 25 places has 8 of 200 on average; none is empty with this seed


def test_same_sample_and_epoch_get_the_same_change_in_any_batch() -> None:
    batch = images()
    whole = augment(batch, steps(*ALL), KEY).inputs["image"]
    order = np.random.default_rng(5).permutation(64)
    for size in (1, 7, 64):
        for start in range(0, 64, size):
            ids = order[start : start + size]
            np.testing.assert_array_equal(
                augment(part(batch, ids), steps(*ALL), KEY).inputs["image"], whole[ids]
            )


@pytest.mark.parametrize("key", [(0, 2), (1, 1)])
def test_epoch_and_seed_change_the_draw(key: tuple[int, int]) -> None:
    batch = images()
    assert (
        augment(batch, steps(*ALL), key).inputs["image"] != augment(batch, steps(*ALL), KEY).inputs["image"]
    ).any()


def test_arrays_of_the_batch_are_not_touched() -> None:
    batch = images()
    before = batch.inputs["image"].copy()
    augment(batch, steps(*ALL, {"mixup": 0.4}), KEY)
    np.testing.assert_array_equal(batch.inputs["image"], before)
    assert batch.mix is None
    assert augment(batch, [], KEY) is batch


def test_mixup_is_the_convex_combination_it_reports() -> None:
    batch = images()
    mixed = augment(batch, steps({"mixup": 0.4}), KEY)
    assert mixed.mix is not None
    assert batch.labels is not None
    index, lam = mixed.mix.index, mixed.mix.lam
    assert sorted(index) == list(range(64))
    assert (index != np.arange(64)).all()
    np.testing.assert_array_equal(mixed.mix.labels, batch.labels[index])
    np.testing.assert_array_equal(mixed.labels, batch.labels)
    x, share = batch.inputs["image"].astype(np.float64), lam.astype(np.float64)[:, None, None, None]
    # float32 products of values up to 4: a few roundings of 2**-24 each
    np.testing.assert_allclose(mixed.inputs["image"], share * x + (1 - share) * x[index], rtol=0, atol=1e-6)
    assert mixed.inputs["image"].dtype == np.float32


def test_mixup_shares_follow_beta_and_the_sample() -> None:
    batch = images(2000, (1, 1, 1))
    mixed = augment(batch, steps({"mixup": 0.4}), KEY)
    assert mixed.mix is not None
    lam = mixed.mix.lam
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)) = 0.1389; standard errors: 0.0083 and about 0.003
    assert lam.mean() == pytest.approx(0.5, abs=0.04)
    assert lam.var() == pytest.approx(0.1389, abs=0.012)
    few = augment(part(batch, np.array([40, 3])), steps({"mixup": 0.4}), KEY)
    assert few.mix is not None
    np.testing.assert_array_equal(few.mix.lam, lam[[40, 3]])


def test_mixup_partners_do_not_depend_on_the_order_of_the_batch() -> None:
    batch, order = images(16), np.random.default_rng(1).permutation(16)
    straight, shuffled = (augment(some, steps({"mixup": 1.0}), KEY) for some in (batch, part(batch, order)))
    np.testing.assert_array_equal(shuffled.inputs["image"], straight.inputs["image"][order])


def test_constants_stay_and_vectors_are_mixed() -> None:
    inputs = {"x": np.eye(4, dtype=np.float32), "rate": np.array(16000)}
    mixed = augment(Batch(inputs, None, np.arange(4), frozenset({"rate"})), steps({"mixup": 1.0}), KEY)
    assert mixed.inputs["rate"] == 16000
    np.testing.assert_allclose(mixed.inputs["x"].sum(axis=1), 1, atol=1e-6)  # lam + (1 - lam) in float32
    assert mixed.mix is not None
    assert mixed.mix.labels is None


@pytest.mark.parametrize(
    ("array", "entries", "line"),
    [
        (
            np.zeros((4, 9)),
            ALL[:1],
            "flip needs images [batch, channels, height, width]; the inputs are x [4, 9]",
        ),
        (
            np.zeros((4, 9, 9)),
            ALL[1:],
            "shift needs images [batch, channels, height, width]; the inputs are x [4, 9, 9]",
        ),
        (
            np.zeros((4, 9, 9, 3)),
            ALL[:1],
            "flip needs channels first; input 'x' is [4, 9, 9, 3], channels last; leave the augmentation out",
        ),
        (np.zeros((4, 9), int), [{"mixup": 1}], "mixup needs inputs of floats; x is int64; leave mixup out"),
        (np.zeros((4, 9)), [{"mixup": 1}, {"mixup": 1}], "mixup is named twice; once is enough"),
    ],
)
def test_batches_that_cannot_be_augmented(
    array: np.ndarray, entries: list[dict[str, object]], line: str
) -> None:
    with pytest.raises(DataError) as caught:
        augment(Batch({"x": array}, None, np.arange(4)), steps(*entries), KEY)
    assert caught.value.lines == (f"train.augment: {line}",)


T, PAD = 12, 7
MASKED = {"splice": "mask"}


def texts(count: int = 400, full: bool = False) -> Batch:
    """Text i is 1000 i + its position, of 3 to T tokens; padding is 7."""
    rng = np.random.default_rng(1)
    lengths = np.full(count, T) if full else rng.integers(3, T + 1, count)
    place = np.arange(T)
    mask = (place < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, 1000 * np.arange(1, count + 1)[:, None] + place, PAD)
    return from_arrays({"ids": ids, "mask": mask}, np.arange(count) % 4).take(np.arange(count))


@pytest.mark.parametrize("full", [False, True])
def test_splice_joins_the_beginning_of_a_text_to_the_end_of_another(full: bool) -> None:
    batch = texts(full=full)
    after = augment(batch, steps(MASKED), KEY)
    assert after.labels is None
    spliced, heads = 0, set()
    lengths = batch.inputs["mask"].sum(1)
    for number, (row, mask) in enumerate(
        zip(after.inputs["ids"], after.inputs["mask"], strict=True), start=1
    ):
        tokens = row[mask == 1]
        assert (mask == (np.arange(T) < len(tokens))).all()
        assert (row[len(tokens) :] == PAD).all()
        owners, places = tokens // 1000, tokens % 1000
        head = int((owners == number).sum())
        assert head >= 1
        assert (owners[:head] == number).all()
        assert (places[:head] == np.arange(head)).all()
        if head == len(tokens):
            assert head == lengths[number - 1]
            continue
        spliced += 1
        heads.add(head)
        (other,) = set(owners[head:])
        tail = len(tokens) - head
        assert (places[head:] == np.arange(lengths[other - 1] - tail, lengths[other - 1])).all()
        assert head < lengths[number - 1]
        assert tail < lengths[other - 1]
    assert 150 < spliced < 250  # 400 fair coins, as above
    assert heads == set(range(1, T))


def test_splice_keeps_dtypes_and_the_given_arrays() -> None:
    batch = texts(9)
    before = {name: array.copy() for name, array in batch.inputs.items()}
    after = augment(batch, steps(MASKED), KEY)
    for name, array in before.items():
        np.testing.assert_array_equal(batch.inputs[name], array)
        assert after.inputs[name].dtype == array.dtype
        assert (after.inputs[name] != array).any()


def test_splice_moves_whole_rows_of_features() -> None:
    batch = texts(50)
    ids = batch.inputs["ids"]
    deep = Batch(batch.inputs | {"x": np.stack([ids, ids + 0.5], axis=2)}, None, batch.ids)
    after = augment(deep, steps(MASKED), KEY).inputs
    np.testing.assert_array_equal(after["x"], np.stack([after["ids"], after["ids"] + 0.5], axis=2))


def test_a_text_alone_in_its_batch_is_spliced_with_itself_or_left() -> None:
    batch = part(texts(), np.array([4]))
    after = augment(batch, steps(MASKED), KEY).inputs
    assert set((after["ids"][after["mask"] == 1]) // 1000) == {5}


def test_what_splice_cannot_take() -> None:
    ids, mask = texts(4).inputs.values()
    for inputs, told in (
        ({"ids": ids, "mask": mask[:, ::-1]}, "padding at the end, and 'mask' has it elsewhere"),
        ({"ids": ids}, "splice: no input 'mask'; name the one that is 0 at padding, of ids"),
        ({"ids": ids, "mask": mask, "age": mask[:, :1]}, r"one length; age is \[4, 1\], mask \[4, 12\]"),
    ):
        given = Batch(inputs, None, np.arange(4))
        with pytest.raises(DataError, match=told):
            augment(given, steps(MASKED), KEY)


SOME = {"replace": {"input": "ids", "mask": "mask", "share": 0.2, "tokens": [500_000, 500_010]}}


def test_replace_changes_a_share_of_the_inner_tokens() -> None:
    batch = texts(2000)
    before, mask = batch.inputs["ids"], batch.inputs["mask"]
    after = augment(batch, steps(SOME), KEY)
    changed = after.inputs["ids"] != before
    assert set(np.unique(after.inputs["ids"][changed])) == set(range(500_000, 500_010))
    place, last = np.arange(T), mask.sum(1, keepdims=True) - 1
    inner = (place > 0) & (place < last)
    assert not changed[~inner].any()
    # A text's share is uniform in 0 ... 0.4; its mean over 2,000 texts has a standard error of 0.003, and the
    # 11,000 tokens add 0.004.
    assert changed[inner].mean() == pytest.approx(0.2, abs=0.02)
    assert (changed.sum(1) == 0).any()
    np.testing.assert_array_equal(after.inputs["mask"], mask)
    assert after.labels is batch.labels
    assert after.inputs["ids"].dtype == before.dtype


def test_replace_does_the_same_in_any_batch() -> None:
    batch = texts(64)
    whole = augment(batch, steps(SOME), KEY).inputs["ids"]
    few = augment(part(batch, np.array([40, 3])), steps(SOME), KEY).inputs["ids"]
    np.testing.assert_array_equal(few, whole[[40, 3]])


def test_replace_needs_token_numbers() -> None:
    batch = texts(4)
    float_ids = Batch(batch.inputs | {"ids": batch.inputs["ids"].astype(np.float32)}, None, batch.ids)
    with pytest.raises(DataError, match=r"replace.input: 'ids' is float32 \[4, 12\]; name the one of"):
        augment(float_ids, steps(SOME), KEY)
    other = {"replace": SOME["replace"] | {"input": "words"}}
    with pytest.raises(DataError, match=r"replace\.input: 'words' is no input"):
        augment(batch, steps(other), KEY)
    with pytest.raises(ValueError, match=r"write \[LOWEST, HIGHEST"):
        steps({"replace": SOME["replace"] | {"tokens": [5, 5]}})
