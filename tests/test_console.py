"""What is printed while work goes on."""

import pytest

from mlcompress import console


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_quiet", False)
    monkeypatch.setattr(console, "_BETWEEN_LINES", 0.0)


def steps(total: int | None) -> None:
    with console.progress("train", total) as advance:
        advance(3)
        advance(4)


def test_a_log_gets_lines_of_progress(hurried: None, capsys: pytest.CaptureFixture[str]) -> None:
    steps(10)
    steps(None)
    written = capsys.readouterr()
    assert written.err.splitlines() == ["train: 3 of 10", "train: 7 of 10", "train: 3", "train: 7"]
    assert written.out == ""


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    steps(10)
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing(
    hurried: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_quiet", True)
    steps(10)
    assert capsys.readouterr().err == ""
