"""What lint does not see: every source file can be read in one sitting."""

from tests.conftest import ROOT

LINES = 300


def test_no_source_file_is_long() -> None:
    counts = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "mlcompress").rglob("*.py")
    }
    assert len(counts) > 100
    assert {str(path.relative_to(ROOT)): count for path, count in counts.items() if count > LINES} == {}
