"""What users get wrong: exit status 2, one clear line for each problem, no traceback, nothing written.

Each case runs the program's own entry point; `test_help.py` and `test_batch.py` run it in a process of its own.
"""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlcompress.cli.app import _status
from mlcompress.exits import Exit
from tests import task

GOOD = "data: {train: {path: train.npz, label: y}, evaluate: {path: val.npz}}\nmeasure: {repeats: 1}\n"


def recipe(text: str) -> Callable[[], None]:
    return lambda: _append("r.yaml", text)


def _append(path: str, text: str) -> None:
    Path(path).write_text(GOOD + text)


def model(content: bytes) -> Callable[[], None]:
    return lambda: (Path("teacher.onnx").write_bytes(content), None)[1]


def change(edit: Callable[[onnx.ModelProto], object]) -> Callable[[], None]:
    def act() -> None:
        proto = onnx.load("teacher.onnx")
        edit(proto)
        Path("teacher.onnx").write_bytes(proto.SerializeToString())

    return act


def arrays(**values: np.ndarray) -> Callable[[], None]:
    return lambda: np.savez("train.npz", **values)


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (Path.write_text, (Path("executed"), "x"))  # type: ignore[return-value]


def pickled_arrays() -> None:
    np.savez("train.npz", image=np.array([Boom()], dtype=object), y=np.zeros(1, np.int64))


def truncated(name: str) -> Callable[[], None]:
    return lambda: (Path(name).write_bytes(Path(name).read_bytes()[: Path(name).stat().st_size // 2]), None)[
        1
    ]


def cycle() -> None:
    Path("a.yaml").write_text("extends: r.yaml\n")
    Path("r.yaml").write_text("extends: a.yaml\nprune: {ratio: 0.5}\n")


def torch_zip() -> None:
    with zipfile.ZipFile("teacher.onnx", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}))


IMAGE, LABELS = task.samples(64, seed=4)
OTHER = '<ir_version: 8, opset_import: ["" : 13]> other (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }'
PRUNE = "prune: {ratio: 0.5, finetune: {}}\n"

# name, what is broken, arguments (teacher.onnx -r r.yaml -o out.onnx by default), a part of the message
CASES: list[tuple[str, Callable[[], None], list[str], str]] = [
    ("model missing", recipe(PRUNE), ["none.onnx"], "none.onnx: "),
    ("model empty", model(b""), [], "teacher.onnx: "),
    ("model truncated", truncated("teacher.onnx"), [], "teacher.onnx: "),
    ("model is text", model(b"hello, I am a model\n" * 40), [], "teacher.onnx: "),
    ("model is a pickle", model(pickle.dumps({"weights": [1.0] * 100})), [], "teacher.onnx: "),
    ("model is a torch zip", torch_zip, [], "teacher.onnx: "),
    ("model is a folder", lambda: (Path("teacher.onnx").unlink(), Path("teacher.onnx").mkdir(), None)[2], [], "teacher.onnx: "),
    ("undefined input", change(lambda m: m.graph.node[0].input.__setitem__(0, "nowhere")), [], "nowhere"),
    ("unknown domain", change(lambda m: setattr(m.graph.node[2], "domain", "com.acme")), [], "com.acme"),
    ("unknown op", change(lambda m: setattr(m.graph.node[2], "op_type", "Sparkle")), [], "Sparkle"),
    ("opset of the future", change(lambda m: setattr(m.opset_import[0], "version", 99)), [], "99"),
    ("duplicate name", change(lambda m: m.graph.node[3].output.__setitem__(0, "r1")), [], "r1"),
    ("no output folder", recipe(PRUNE), ["-o", "nowhere/out.onnx"], "nowhere/out.onnx: the folder nowhere does not exist"),
    ("output is a folder", lambda: (Path("out.onnx").mkdir(), None)[1], [], "out.onnx: is a folder where a file would be written"),
    ("output is the input", recipe(PRUNE), ["-o", "teacher.onnx"], "teacher.onnx: "),
    ("output is the input by another way", lambda: (Path("sub").mkdir(), None)[1], ["-o", "sub/../teacher.onnx"], "is read by this command"),
    ("output is the input through a link", lambda: Path("link.onnx").symlink_to("teacher.onnx"), ["-o", "link.onnx"], "is read by this command"),
    ("output is the gate's baseline", recipe(PRUNE + "gate: {baseline: out.onnx, max_drop: 1}\n"), [], "is read by this command"),
    ("card's place is taken", lambda: (Path("out.onnx.json").mkdir(), None)[1], [], "out.onnx.json: is a folder where a file would be written"),
    ("draft's place is taken", lambda: (Path(".out.onnx.partial").write_text("x"), None)[1], [], "out.onnx: cannot be written"),
    ("recipe is a folder", lambda: (Path("d").mkdir(), None)[1], ["-r", "d"], "d: is not a file; name a recipe"),
    ("recipe without end", recipe(PRUNE), ["-r", "/dev/zero"], "/dev/zero: is not a file; name a recipe"),
    ("infinite limit", recipe(PRUNE + "gate: {max_size_ratio: 1e400}\n"), [], "r.yaml:4: gate.max_size_ratio: "),
    ("a hundred thousand threads", recipe(PRUNE + "measure: {threads: 100000}\n".replace("measure", "train")), [], "train.threads: "),
    ("baseline of another task", lambda: (onnx.save(onnx.parser.parse_model(OTHER), "other.onnx"), _append("r.yaml", PRUNE + "gate: {baseline: other.onnx, max_drop: 1}\n"))[1], [], "gate.baseline: other.onnx takes x float32, the model takes image float32"),
    ("unknown output to judge", recipe(PRUNE + "evaluate: {output: nope}\n"), [], "evaluate.output: no output 'nope'; choose one of logits"),
    ("two values in one --set", recipe(PRUNE), ["--set", "prune.ratio=0.4\nfoo: 3"], "is more than one value"),
    ("a drop of more than everything", recipe(PRUNE + "gate: {max_drop: 1.5}\n"), [], "write 0.015 for 1.5 points"),
    ("more teachers", recipe(""), ["distill", "teacher.onnx", "-t", "teacher.onnx"], "--teacher: teacher.onnx is given twice; name it once"),
    ("two students", recipe("distill: {student: {file: teacher.onnx}}\n"), ["distill", "teacher.onnx", "--student", "teacher.onnx"], "--student: distill.student.file names a student too"),
    ("output of another format", recipe(PRUNE), ["-o", "out.tflite"], "out.tflite: "),
    ("recipe missing", recipe(PRUNE), ["-r", "no.yaml"], "no.yaml: cannot read the recipe (No such file or directory)"),
    ("recipe is a model", recipe(PRUNE), ["-r", "teacher.onnx"], "teacher.onnx: "),
    ("unknown key", recipe("prune: {ratoi: 0.5, ratio: 0.5}\n"), [], "r.yaml:3: prune.ratoi: unknown key; did you mean 'ratio'?"),
    ("wrong type", recipe("prune: {ratio: half}\n"), [], "r.yaml:3: prune.ratio: "),
    ("out of range", recipe("prune: {ratio: 2}\n"), [], "r.yaml:3: prune.ratio: "),
    ("no amount", recipe("prune: {}\n"), [], "r.yaml:3: prune: say how much to remove"),
    ("no section", recipe(""), [], "prune: is required; add it"),
    ("section of another stage", recipe(PRUNE + "quantize: {}\n"), [], "this section belongs in the recipe of `mlcompress quantize`"),
    ("cyclic extends", cycle, [], "extends: goes in a circle"),
    ("yaml bomb", recipe("a: &a [1]\nb: [*a, *a]\n"), [], "anchors and aliases are not used in recipes"),
    ("yaml tag", recipe("a: !!python/name:os.system x\n"), [], "tags are not used in recipes"),
    ("duplicate key", recipe(PRUNE + PRUNE), [], "r.yaml:4: prune: given twice; remove one"),
    ("skip matches nothing", recipe(PRUNE + "skip: [nothing]\n"), [], "skip: 'nothing' matches no node"),
    ("data missing", lambda: Path("train.npz").unlink(), [], "train.npz"),
    ("data truncated", truncated("train.npz"), [], "train.npz"),
    ("data pickled", pickled_arrays, [], "data.train"),
    ("data of wrong shape", arrays(image=np.zeros((8, 1, 9, 9), np.float32), y=np.zeros(8, np.int64)), [], "data.train"),
    ("data of wrong dtype", arrays(image=np.zeros((8, 1, 8, 8), np.uint8), y=np.zeros(8, np.int64)), [], "transforms"),
    ("data of wrong names", arrays(pictures=IMAGE, masks=IMAGE, y=LABELS), [], "inputs: {image: "),
    ("labels out of range", arrays(image=IMAGE, y=LABELS + 9), [], "mend the labels"),
    ("labels of other length", arrays(image=IMAGE, y=LABELS[:5]), [], "data.train"),
    ("NaN in data", arrays(image=np.full_like(IMAGE, np.nan), y=LABELS), [], "data.train"),
    ("no samples", arrays(image=IMAGE[:0], y=LABELS[:0]), [], "data.train"),
    ("fine-tune without data", lambda: (Path("r.yaml").write_text(PRUNE), None)[1], [], "data.train: "),
    ("gate without data", lambda: (Path("r.yaml").write_text("prune: {ratio: 0.5}\ngate: {max_drop: 0.1}\n"), None)[1], [], "gate: "),
    ("missing provider", recipe(PRUNE), ["--provider", "cuda"], "measure.providers: 'cuda' does not run here"),
    ("misspelt provider", recipe(PRUNE), ["--provider", "cudda"], "did you mean 'cuda'?"),
    ("baseline missing", recipe(PRUNE + "gate: {baseline: no.onnx, max_drop: 1}\n"), [], "no.onnx: "),
    ("code refused", recipe("prune: {ratio: 0.5, finetune: {}}\n"), ["--no-code", "--set", "data.train={python: 'os:getcwd'}"], "--no-code"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("breakage", "arguments", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_bad_input(
    breakage: Callable[[], None],
    arguments: list[str],
    message: str,
    inside: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _append("r.yaml", PRUNE)
    breakage()
    before = {path: path.read_bytes() for path in inside.rglob("*") if path.is_file()}
    command = [] if arguments[:1] == ["distill"] else ["prune"]
    if command and not any(word.endswith(".onnx") and i == 0 for i, word in enumerate(arguments)):
        command.append("teacher.onnx")
    command += arguments
    for flag, value in (("-r", "r.yaml"), ("-o", "out.onnx")):
        if flag not in arguments:
            command += [flag, value]

    status = _status(command)

    printed = capsys.readouterr()
    assert status == Exit.CANNOT_RUN, printed.err
    assert printed.out == ""
    assert message in printed.err
    lines = printed.err.strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert all(": " in line and not line.startswith((" ", "Traceback")) for line in lines)
    assert {path: path.read_bytes() for path in inside.rglob("*") if path.is_file()} == before


def test_there_are_forty_of_them() -> None:
    assert len(CASES) >= 40


def test_all_problems_of_the_data_are_told_at_once(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.npz").unlink()
    Path("val.npz").write_bytes(b"no zip")
    _append("r.yaml", PRUNE)
    assert _status(["prune", "teacher.onnx", "-r", "r.yaml", "-o", "out.onnx"]) == Exit.CANNOT_RUN
    lines = capsys.readouterr().err.strip().splitlines()
    assert any("train.npz" in line for line in lines)
    assert any("val.npz" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "z.onnx"], "data.calibration: ranges of activations are taken from samples"),
        (["-o", "nodir/z.onnx"], "the folder nodir does not exist"),
        (["-o", "teacher.onnx"], "is read by this command and would be overwritten"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    arguments: list[str], message: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text("quantize: {}\n")
    before = sorted(inside.rglob("*"))
    assert _status(["quantize", "teacher.onnx", "-r", "r.yaml", "-n", *arguments]) == Exit.CANNOT_RUN
    assert message in capsys.readouterr().err
    assert sorted(inside.rglob("*")) == before
