"""The cache belongs to a sample, a teacher and a data set, and to nothing else."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.errors import DataError, ModelError
from mlcompress.train.batches import to_torch
from mlcompress.train.executor import Executor
from mlcompress.train.teacher import Teacher
from tests.train.nets import net, stripes

HALF = 2e-3  # float16 has 11 bits: 2 ** -11 of logits below 4


def logits(data: Dataset, ids: np.ndarray) -> np.ndarray:
    """What the teacher says, without any cache."""
    with torch.no_grad():
        return Executor(net()).eval()(to_torch(data.take(ids)).inputs)["logits"].numpy()


def cached(data: Dataset, folder: Path | None) -> Teacher:
    teacher = Teacher(net(), ["logits"])
    teacher.cache(data, folder)
    return teacher


def said(teacher: Teacher, data: Dataset, ids: np.ndarray) -> np.ndarray:
    return teacher(to_torch(data.take(ids)))["logits"].numpy()


@pytest.mark.parametrize("kept", [True, False])
def test_a_shuffled_batch_gets_its_own_values(tmp_path: Path, kept: bool) -> None:
    data = stripes(300)  # more than one batch of the teacher
    teacher = cached(data, tmp_path if kept else None)
    ids = np.random.default_rng(1).permutation(300)[:64]
    np.testing.assert_allclose(said(teacher, data, ids), logits(data, ids), rtol=0, atol=HALF)
    # negative control: values by position in the batch, as a cache of batches would give them, are not these
    assert np.abs(said(teacher, data, np.arange(64)) - logits(data, ids)).max() > 0.1


def test_without_a_cache_the_values_follow_the_inputs() -> None:
    data = stripes(8)
    teacher = Teacher(net(), ["logits", "p"])
    batch = to_torch(data.take(np.arange(8)))
    changed = type(batch)({"image": batch.inputs["image"].flip(0)}, batch.labels, batch.ids)
    np.testing.assert_allclose(
        teacher(changed)["logits"].numpy()[::-1], teacher(batch)["logits"].numpy(), atol=1e-6
    )
    assert teacher(batch)["p"].shape == (8, 8)
    assert not teacher(batch)["logits"].requires_grad


def test_a_second_run_reads_the_files(tmp_path: Path) -> None:
    data = stripes(30)
    cached(data, tmp_path)
    (array,) = tmp_path.glob("*.npy")
    (description,) = tmp_path.glob("*.json")
    marked = np.load(array)
    marked[7] = 42
    np.save(array, marked)
    facts = json.loads(description.read_text())
    from mlcompress.files import sha256

    description.write_text(json.dumps({**facts, "sha256": [sha256(array)]}))
    assert said(cached(data, tmp_path), data, np.array([7])).tolist() == [[42, 42, 42]]


def test_damaged_files_are_computed_again(tmp_path: Path) -> None:
    data = stripes(30)
    cached(data, tmp_path)
    (array,) = tmp_path.glob("*.npy")
    marked = np.load(array)
    marked[7] = 42
    np.save(array, marked)
    np.testing.assert_allclose(
        said(cached(data, tmp_path), data, np.array([7])), logits(data, np.array([7])), atol=HALF
    )


def test_other_data_or_another_teacher_is_computed_again(tmp_path: Path) -> None:
    data, other = stripes(30), stripes(30, seed=9)
    cached(data, tmp_path)
    ids = np.arange(30)
    np.testing.assert_allclose(
        said(cached(other, tmp_path), other, ids), logits(other, ids), rtol=0, atol=HALF
    )
    assert np.abs(logits(other, ids) - logits(data, ids)).max() > 0.1
    second = Teacher(net(seed=3), ["logits"])
    second.cache(data, tmp_path)
    assert np.abs(said(second, data, ids) - logits(data, ids)).max() > 0.1


def test_a_forged_description_is_not_believed(tmp_path: Path) -> None:
    data = stripes(30)
    cached(data, tmp_path)
    (description,) = tmp_path.glob("*.json")
    for text in ("{", "[]", '{"made_from": {}}'):
        description.write_text(text)
        np.testing.assert_allclose(
            said(cached(data, tmp_path), data, np.arange(3)), logits(data, np.arange(3)), atol=HALF
        )


def test_values_beyond_float16_are_refused() -> None:
    data = from_arrays({"image": np.full((4, 1, 6, 6), 1e6, np.float32)})
    with pytest.raises(DataError, match="logits has values beyond float16"):
        cached(data, None)


def test_a_teacher_that_changed_is_a_bug() -> None:
    model = net()
    teacher = Teacher(model, ["logits"])
    teacher(to_torch(stripes(8).take(np.arange(8))))
    teacher.check_unchanged()
    model.graph.initializers["b2"].const_value = ir.tensor(np.ones(3, np.float32), name="b2")
    with pytest.raises(RuntimeError, match="changed during training"):
        teacher.check_unchanged()


def test_inner_values_do_not_change_the_model() -> None:
    model = net(softmax=True)
    Teacher(model, ["logits"])
    assert [value.name for value in model.graph.outputs] == ["probabilities"]


def test_data_that_does_not_fit_is_said() -> None:
    data = from_arrays({"image": np.zeros((4, 2, 6, 6), np.float32)})
    with pytest.raises(ModelError, match="teacher: does not run on this data"):
        cached(data, None)


def test_values_without_a_row_for_each_sample_are_not_kept(tmp_path: Path) -> None:
    """The state [2, B, 3] of a recurrent net: the teacher runs on each batch, and nothing is written."""
    model = onnx_text("""
        net (float[N, 3] x) => (float[2, N, 3] state) <int64[1] first = {0}> {
            row = Unsqueeze(x, first)
            twice = Neg(row)
            state = Concat<axis = 0>(row, twice)
        }
    """)
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    data, ids = from_arrays({"x": x}), np.array([7, 3, 30])
    teacher = Teacher(model, ["state"])
    teacher.cache(data, tmp_path)
    state = teacher(to_torch(data.take(ids)))["state"].numpy()
    np.testing.assert_array_equal(state, np.stack([x[ids], -x[ids]]))
    assert not list(tmp_path.iterdir())


def onnx_text(text: str) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 18]>' + text)
    return ir.serde.deserialize_model(proto)
