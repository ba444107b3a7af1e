import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mlcompress import console
from mlcompress.measure import lock

HOLD = """
import sys
from mlcompress.measure.lock import measuring
with measuring():
    print("held", flush=True)
    sys.stdin.read()
"""

TRY = """
import fcntl, sys
from mlcompress.measure import lock
with open(lock.path(), "w") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free")
    except BlockingIOError:
        print("held")
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def seen_from_outside() -> str:
    return subprocess.run(
        [sys.executable, "-c", TRY], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_held_inside_and_free_afterwards() -> None:
    with lock.measuring():
        assert seen_from_outside() == "held"
    assert seen_from_outside() == "free"


def test_nested_use_neither_deadlocks_nor_releases_early() -> None:
    with lock.measuring():
        with lock.measuring():
            pass
        assert seen_from_outside() == "held"
    assert seen_from_outside() == "free"


def test_released_after_an_error() -> None:
    with pytest.raises(KeyError), lock.measuring():
        raise KeyError
    assert seen_from_outside() == "free"


def test_threads_of_one_process_take_turns() -> None:
    inside, most = [], []

    def measure() -> None:
        with lock.measuring():
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=measure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert most == [1] * 8


def test_waiting_is_said_and_ends_with_the_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    said = []

    def say(text: str) -> None:
        said.append(text)
        other.kill()  # dies without a word: the system must release the lock

    monkeypatch.setattr(console, "say", say)
    with lock.measuring():
        assert said == [f"waiting for other measurements on this machine to end ({lock.path()} is locked)"]
        assert seen_from_outside() == "held"
    other.stdin.close()
    other.stdout.close()
    other.wait(timeout=30)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "precious"
    os.symlink(target, lock.path())
    with lock.measuring():
        pass
    assert not target.exists()
    assert "cannot be locked" in capsys.readouterr().err
