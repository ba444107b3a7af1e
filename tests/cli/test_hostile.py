"""Hostile files through the program: status 2, one clear line, nothing of them is run, nothing is written.

The files are those of the tests of loading. All go through the program's own `main`, in one process with limits.
"""

import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import onnx
import pytest

from tests.checkpoint import test_hostile as checkpoints
from tests.graph.onnx_text import MLP
from tests.graph.test_bombs import BOMBS
from tests.graph.test_bombs import REFUSED as REFUSED_BOMBS
from tests.graph.test_hostile import OTHERS
from tests.graph.test_malformed import MALFORMED

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'
ROOT = Path(__file__).parents[2]
RECIPES = {
    "prune": checkpoints.RECIPE,
    "quantize": "quantize: {mode: weight_only}\n",
    "distill": "distill: {student: {width: 0.5}}\ndata: {train: {synthetic: true}}\n",
}
VERBS = ("prune", "quantize", "distill", "inspect")
Make = Callable[[Path], bytes | None]
"""The bytes of the file, or None where it was made."""

SCRIPT = """
import contextlib, io, json, os, sys
from pathlib import Path
from mlcompress.cli.app import main

def listing():
    return {str(p): None if p.is_symlink() or p.is_dir() else p.read_bytes() for p in Path().rglob("*")}

for folder, arguments in json.loads(sys.stdin.read()):
    os.chdir(folder)
    before = listing()
    sys.argv = ["mlcompress", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code
    told = [folder, status, out.getvalue(), err.getvalue(), listing() == before]
    print(json.dumps(told), flush=True)
"""
MEMORY, SECONDS = 8 * 2**30, 60
"""Address space with the libraries in it, and CPU time of all files (six seconds are usual)."""


class Marks:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("mark", "w")


def text(graph: str, header: str = HEADER) -> bytes:
    made: bytes = onnx.parser.parse_model(header + dedent(graph)).SerializeToString()
    return made


def escaping(location: str) -> bytes:
    """The MLP with its weight in another file."""
    proto = onnx.load_from_string(text(MLP))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    made: bytes = proto.SerializeToString()
    return made


def functions(count: int) -> bytes:
    """Each function calls the next one twice."""
    imports = 'opset_import: ["" : 18, "local" : 1]'
    bodies = [f"q = local.F{i}(p)  r = local.F{i}(q)" for i in range(1, count)] + ["r = Relu(p)"]
    called = "".join(f'<domain: "local", {imports}> F{i} (p) => (r) {{ {b} }}' for i, b in enumerate(bodies))
    return text(
        "net (float[N] x) => (float[N] y) { y = local.F0(x) }" + called, f"<ir_version: 10, {imports}>"
    )


def script(path: Path) -> None:
    """A TorchScript archive whose code would run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/code/__torch__.py", "open('mark', 'w')")
        archive.writestr("net/constants.pkl", pickle.dumps(Marks()))
        archive.writestr("net/data.pkl", pickle.dumps(Marks()))


def bytes_of(content: bytes) -> Make:
    return lambda path: content


CASES: dict[str, Make] = {
    **{f"other format: {name}": bytes_of(content) for name, (content, _) in OTHERS.items()},
    **{f"pickle {protocol}": bytes_of(pickle.dumps(Marks(), protocol)) for protocol in (0, 2, 3, 4, 5)},
    **{f"malformed: {name}": bytes_of(text(net)) for name, (net, _) in MALFORMED.items()},
    **{f"bomb: {name}": bytes_of(text(BOMBS[name])) for name in REFUSED_BOMBS},
    **{f"weights in {name}": bytes_of(escaping(name)) for name in ("../w.bin", "/etc/passwd", "/dev/zero", "no.bin")},
    "functions that double": bytes_of(functions(30)),
    "opset of the future": bytes_of(text(MLP, '<ir_version: 10, opset_import: ["" : 99]>')),
    "IR version of the future": bytes_of(text(MLP, '<ir_version: 99, opset_import: ["" : 18]>')),
    "truncated": bytes_of(text(MLP)[:-20]),
    "names that are no UTF-8": bytes_of(text(MLP).replace(b"second", b"sec\xffnd")),
    "long names": bytes_of(text(MLP.replace("MatMul(x, w)", "MatMul(x, " + "lost" * 9999 + ")"))),
    "garbage": bytes_of(bytes(range(255, 0, -1)) * 3),
    "torchscript": script,
    # torch checkpoints; the test beside them runs each in this process
    **{f"checkpoint: {name}": make for name, (make, _) in checkpoints.CASES.items() if name != "zip bomb"},
}  # fmt: skip


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, bool]]:
    """Case -> status, stdout, stderr, and whether the folder is as it was."""
    jobs, places = [], {}
    for number, (name, make) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp("case")
        if (content := make(folder / "net.onnx")) is not None:
            (folder / "net.onnx").write_bytes(content)
        verb = "prune" if name.startswith("checkpoint") else VERBS[number % len(VERBS)]
        arguments = [verb, "net.onnx"]
        if verb != "inspect":
            (folder / "r.yaml").write_text(RECIPES[verb])
            arguments += ["-r", "r.yaml", "-o", "out.onnx"]
        jobs.append([str(folder), arguments])
        places[str(folder)] = name
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (rows[-1:], done.stderr[-500:])
    return {places[folder]: (status, out, err, same) for folder, status, out, err, same in rows}


def test_there_are_more_than_sixty_of_them() -> None:
    assert len(CASES) > 100
    assert sum(not name.startswith("checkpoint") for name in CASES) > 60


@pytest.mark.parametrize("name", CASES)
def test_hostile_file(ends: dict[str, tuple[int, str, str, bool]], name: str) -> None:
    status, out, err, is_as_it_was = ends[name]
    assert status == 2, err
    assert out == ""
    lines = err.strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("net.onnx: ") and len(line) < 450 for line in lines)
    assert "Traceback" not in err
    assert is_as_it_was  # no mark of code that ran, no output, no card, no draft


def test_the_mark_would_have_been_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: plain unpickling runs the code."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Marks())).close()  # noqa: S301
    assert Path("mark").exists()
