import gzip
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.errors import ModelError, UnsupportedError
from mlcompress.measure import size
from tests.measure.models import linear, parse

WEIGHT = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "big.onnx"
    model = onnx.load_from_string(linear(WEIGHT))
    onnx.save(model, path, save_as_external_data=True, location="big.bin", size_threshold=0)
    return path


def test_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(linear(WEIGHT))
    found = size.on_disk(path)
    assert found.bytes == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.data_files == ()


def test_compressed_bytes_are_those_of_gzip_6(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    sparse = np.where(np.abs(WEIGHT) > 1.5, WEIGHT, 0)
    path.write_bytes(linear(np.tile(sparse, (40, 20))))  # larger than the block that is read at once
    assert path.stat().st_size > 2 << 20
    found = size.on_disk(path)
    assert found.compressed_bytes == len(gzip.compress(path.read_bytes(), 6))
    assert found.compressed_bytes < found.bytes / 2


def test_external_data_count(external: Path) -> None:
    found = size.on_disk(external)
    data = external.with_name("big.bin")
    assert found.data_files == ("big.bin",)
    assert found.bytes == external.stat().st_size + data.stat().st_size
    assert found.bytes > WEIGHT.nbytes
    expected = sum(len(gzip.compress(part.read_bytes(), 6)) for part in (external, data))
    assert found.compressed_bytes == expected


def test_external_data_that_are_missing_or_elsewhere(external: Path) -> None:
    external.with_name("big.bin").unlink()
    with pytest.raises(ModelError, match=r"big\.bin is missing"):
        size.on_disk(external)
    model = onnx.load(external, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../big.bin"
    external.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        size.on_disk(external)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        size.on_disk(tmp_path / "gone.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("hello, this is text and not a model")
    with pytest.raises(UnsupportedError, match="is text"):
        size.on_disk(text)


def test_nonzeros_count_each_tensor_that_is_read_once() -> None:
    model = ir.from_proto(
        onnx.load_from_string(
            parse(
                """g (float[N, 3] x) => (float[N, 3] y) {
                    a = MatMul (x, w)
                    b = MatMul (a, w)
                    y = Add (b, c)
                }""",
                w=np.asarray([[1, 0, 2], [0, 0, 0], [0, 3, 0]], np.float32),
                c=np.asarray([0, 5, 0], np.float32),
                unused=np.ones(100, np.float32),
            )
        )
    )
    assert graph.nonzeros(model) == 3 + 1
