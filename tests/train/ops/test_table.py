"""The generated page of ops is current, and says what the executor does."""

import onnx
import pytest

from mlcompress.train.ops import OPS, table
from tests.conftest import ROOT


@pytest.mark.skipif(
    onnx.defs.onnx_opset_version() < table.LAST, reason="this onnx does not know all the opsets"
)
def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    assert page == table.markdown(), "renew it with `make docs`"


def test_every_op_has_a_row_and_those_of_the_executor_alone_have_none() -> None:
    names = [row.name for row in table.rows()]
    assert names == sorted(name for name in OPS if not name.startswith(("fused.", "frozen.")))


def test_rows_say_what_is_refused() -> None:
    rows = {row.name: row for row in table.rows()}
    assert rows["Softmax"] == table.Row("Softmax", (1, 11, 13), ("axis",), (), ())
    assert "output running_mean" in rows["BatchNormalization"].refused
    assert "input output_shape" in rows["MaxUnpool"].refused
    assert "types uint64" in rows["Add"].refused
    assert "attribute stash_type=..." in rows["LayerNormalization"].reasons  # raised by what it calls
    assert rows["Clip"].opsets == (6, 11, 12, 13)
    assert rows["TensorScatter"].opsets == ()
