"""`--help` is fast because it imports nothing heavy, and every way of ending has its exit status."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = ("distill", "prune", "quantize", "report", "inspect", "init", "list", "schema", "providers")
HEAVY = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "numpy",
    "onnxscript",
    "accelerate",
    "matplotlib",
    "rich",
    "yaml",
)


def mlcompress(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlcompress", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_the_program_lists_its_verbs() -> None:
    done = mlcompress("--help")
    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    "arguments", [[], *([verb] for verb in VERBS)], ids=lambda a: a[0] if a else "program"
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from mlcompress.cli.app import _status\n"
        f"status = _status({[*arguments, '--help']!r})\n"
        f"print(status, [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0 []"
    assert "Usage:" in done.stdout


def test_version() -> None:
    from mlcompress import __version__

    assert mlcompress("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--nope"], "mlcompress prune: no such option: --nope"),
        (["prun"], "mlcompress: no such command 'prun'"),
        (["prune", "a.onnx"], "--output: where to write is missing; add -o FILE.onnx"),
        (["prune", "a.onnx", "b.onnx", "-o", "c.onnx"], "--output: is for one MODEL and 2 were given"),
        (["prune", "a.onnx", "-o", "c.onnx", "--output-dir", "d"], "--output: goes with one MODEL"),
        (["list", "colours"], "colours: not a kind of method; choose one of"),
        (["schema", "paint"], "paint: not a stage; choose one of"),
        (["prune", "a.onnx", "-o", "c.onnx", "--seed", "-1"], "mlcompress prune: invalid value for '--seed'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = mlcompress(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_arguments_print_the_help_and_exit_2() -> None:
    done = mlcompress()
    assert done.returncode == 2
    assert "Usage:" in done.stderr + done.stdout


def test_a_reader_that_goes_away_stops_nothing() -> None:
    code = (
        "import os, sys\n"
        "from mlcompress import console\n"
        "console.data('one'); console.say('two')\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1); os.dup2(writer, 2)\n"
        "console.data('three'); console.error('four'); console.data('five')\n"
        "os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 7


def test_an_internal_error_exits_3_and_asks_for_a_report() -> None:
    code = (
        "import mlcompress.methods as m, sys\n"
        "def broken(kind): raise ZeroDivisionError('x')\n"
        "m.describe = broken\n"
        "from mlcompress.cli.app import _status\n"
        "sys.exit(_status(['list', 'criteria']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr == "internal error: ZeroDivisionError: x; rerun with --debug and report it\n"


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_have_their_exit_status(sent: signal.Signals, status: int) -> None:
    code = (
        "import mlcompress.methods as m, sys, time\n"
        "def waits(kind): print('ready', flush=True); time.sleep(60)\n"
        "m.describe = waits\n"
        "sys.argv = ['mlcompress', 'list', 'criteria']\n"
        "from mlcompress.cli.app import main\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert len(errors.strip().splitlines()) == 1
