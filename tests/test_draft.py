"""OUTPUT appears whole, with its card, or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlcompress import card, files
from mlcompress.draft import Draft
from mlcompress.errors import DivergedError, UsageError


def facts(path: Path) -> card.Card:
    return {"output": {"sha256": files.sha256(path)}}


def write(output: Path, content: bytes) -> None:
    with Draft(output) as draft:
        draft.model.write_bytes(content)
        draft.publish(facts(draft.model))


def test_publishing_leaves_artifact_and_card_only(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    write(output, b"one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.json"]
    assert card.read(output)[0] == facts(output)


def test_a_rejected_artifact_leaves_output_alone(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    write(output, b"one")
    with Draft(output) as draft:
        draft.rejected_model.write_bytes(b"two")
        draft.reject(facts(draft.rejected_model))
    assert output.read_bytes() == b"one"
    assert (tmp_path / "out.onnx.rejected").read_bytes() == b"two"
    assert card.read(output)[1] is None
    write(output, b"three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.json"]


def test_a_file_of_somebody_else_is_not_replaced_by_weights(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    foreign = [tmp_path / "out.onnx.data", tmp_path / "out.onnx.rejected.data"]
    for path in foreign:
        path.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"out\.onnx\.data: .*move it"), Draft(output) as draft:
        draft.model.write_bytes(b"model")
        (draft.folder / "out.onnx.data").write_bytes(b"weights")
        draft.publish(facts(draft.model))
    assert not output.exists()
    with Draft(output) as draft:  # an artifact in one file needs no room for weights
        draft.model.write_bytes(b"model")
        draft.publish(facts(draft.model))
    assert output.read_bytes() == b"model"
    assert [path.read_bytes() for path in foreign] == [b"mine", b"mine"]


def test_an_error_removes_everything_but_the_old_output(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    write(output, b"one")
    with pytest.raises(UsageError), Draft(output) as draft:
        draft.model.write_bytes(b"two")
        raise UsageError("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.json"]
    assert output.read_bytes() == b"one"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, DivergedError])
def test_an_interrupt_keeps_the_training_state(problem: type[BaseException], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(problem), Draft(output) as draft:
        draft.state.mkdir()
        (draft.state / "epoch").write_text("3")
        draft.model.write_bytes(b"half")
        raise problem
    with Draft(output) as draft:
        assert (draft.state / "epoch").read_text() == "3"
        assert not draft.model.exists()


def test_a_failure_that_is_not_the_users_keeps_the_training_state(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(MemoryError), Draft(output) as draft:
        draft.state.mkdir()
        raise MemoryError
    assert draft.state.exists()
    with pytest.raises(UsageError), Draft(output):
        raise UsageError("x")
    assert not draft.folder.exists()


def test_two_writers_of_one_output_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with Draft(output), pytest.raises(UsageError, match="another mlcompress is writing it"), Draft(output):
        pass


WRITER = """
import sys
from pathlib import Path
from mlcompress import files
from mlcompress.draft import Draft
output, content, stop = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
calls = 0
def watch(frame, event, argument):
    # `kill -9` between any two lines of the publishing code
    global calls
    if event == "line" and frame.f_code.co_filename.endswith("draft.py"):
        calls += 1
        if calls == stop:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    return watch
with Draft(output) as draft:
    draft.model.write_bytes(content)
    facts = {"output": {"sha256": files.sha256(draft.model)}}
    sys.settrace(watch)
    draft.publish(facts)
    sys.settrace(None)
    print(calls)
"""


def test_kill_at_any_moment_leaves_no_card_of_other_bytes(tmp_path: Path) -> None:
    def run(output: Path, content: str, stop: int) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", WRITER, str(output), content, str(stop)]
        return subprocess.run(
            arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )

    whole = run(tmp_path / "count.onnx", "x", 0)
    moments = int(whole.stdout)
    assert moments >= 10
    seen = set()
    for stop in range(1, moments + 1):
        output = tmp_path / f"{stop}.onnx"
        write(output, b"old")
        assert run(output, "new", stop).returncode == -signal.SIGKILL
        content = output.read_bytes() if output.exists() else None
        seen.add(content)
        assert content in (b"old", b"new", None)
        assert card.read(output)[1] is None if content else True
        if content == b"new":
            assert json.loads(card.path_for(output).read_text()) == facts(output)
        write(output, b"again")  # the next run is not in the way of what was left
        assert output.read_bytes() == b"again"
    assert seen == {b"old", b"new", None}
