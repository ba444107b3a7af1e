"""Files that several tests of this folder start from."""

from pathlib import Path

import pytest

from tests.report.nets import write_card, write_net


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """teacher -> pruned -> small, the latter two with cards."""
    paths = [
        write_net(tmp_path / f"{name}.onnx", hidden)
        for name, hidden in (("teacher", 64), ("pruned", 32), ("small", 16))
    ]
    write_card(paths[1], paths[0])
    write_card(paths[2], paths[1], "distill")
    return paths
