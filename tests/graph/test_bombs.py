"""Small files that ask for all memory or all time: they load, or are refused, within a fixed budget of both.

All run in one process of its own whose memory and CPU time are limited by the system. Loading, the channel
analysis and the cost count must neither compute nor allocate what the file asks for.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

HUGE = "int64[1] huge = {1000000000000}, int64 far = {1000000000000}, int64 one = {1}, int64 zero = {0}, float[1] f = {1}"
SUM = "total = ReduceSum<keepdims = 0>(h)  y = Add(x, total)"
LOOP = "Loop(far, go, x) <body = b (int64 i, bool g, float[N] v) => (bool n, float[N] w{more}) {{ n = Identity(g)  w = Add(v, f){also} }}>"


def net(nodes: str, stored: str = HUGE, inputs: str = "float[N] x", output: str = "float[N] y") -> str:
    return f"net ({inputs}) => ({output}) <{stored}> {{ {nodes} }}"


BOMBS = {
    "ConstantOfShape": net(f"h = ConstantOfShape(huge)  {SUM}"),
    "ConstantOfShape as a weight": net(
        "h = ConstantOfShape(s)  y = MatMul(x, h)", "int64[2] s = {2, 500000000000}", "float[N, 2] x", "float[N, M] y"
    ),
    "Expand": net(f"h = Expand(f, huge)  {SUM}"),
    "Tile": net(f"h = Tile(f, huge)  {SUM}"),
    "Range": net(f"r = Range(zero, far, one)  h = Cast<to = 1>(r)  {SUM}"),
    "Range as a shape": net("h = Range(zero, far, one)  y = Reshape(x, h)"),
    "OneHot": net(f"h = OneHot(i, huge, v)  {SUM}", HUGE + ", int64[1] i = {3}, float[2] v = {0, 1}"),
    "Pad": net(f"h = Pad(f, p)  {SUM}", "float[1] f = {1}, int64[2] p = {0, 1000000000000}"),
    "Resize": net(
        f"h = Resize(f, , , p)  {SUM}", "float[1, 1, 1, 1] f = {1}, int64[4] p = {1, 1, 1000000, 1000000}"
    ),
    "EyeLike": net(f"a = ConstantOfShape(s)  h = EyeLike(a)  {SUM}", "int64[2] s = {200000, 200000}"),
    "outer sum": net(
        f"a = ConstantOfShape(s)  b = ConstantOfShape(t)  h = Add(a, b)  {SUM}",
        "int64[2] s = {1, 100000}, int64[2] t = {100000, 1}",
    ),
    "outer product": net(
        f"a = ConstantOfShape(s)  b = ConstantOfShape(t)  h = MatMul(b, a)  {SUM}",
        "int64[2] s = {1, 100000}, int64[2] t = {100000, 1}",
    ),
    "Einsum": net(
        f'a = ConstantOfShape(s)  h = Einsum<equation = "i,j->ij">(a, a)  {SUM}', "int64[1] s = {200000}"
    ),
    "padded Conv": net(
        f"h = Conv<pads = [100000, 100000, 100000, 100000]>(a, a)  {SUM}", "float[1, 1, 1, 1] a = {1}"
    ),
    "Loop": net("y = " + LOOP.format(more="", also=""), HUGE + ", bool go = {1}"),
    "Loop that stacks": net(
        "z, y = " + LOOP.format(more=", float[N] k", also="  k = Identity(w)"),
        HUGE + ", bool go = {1}",
        output="float[K, N] y",
    ),
    "declared input": net("y = Relu(x)", "float f = {1}", "float[N, 1000000000000] x", "float[N, 1000000000000] y"),
    "declared output": net(
        "y = MatMul(x, w)", "float[2, 2] w = {1, 2, 3, 4}", "float[N, 2] x", "float[1000000000, 1000000000] y"
    ),
    "integer vector": net("y = Cast<to = 1>(x)", "float f = {1}", "int64[1000000000000] x", "float[1000000000000] y"),
    "no elements of a huge shape": net(
        "y = Concat<axis = 1>(x, w)", "float[1, 1] w = {1}", "float[2, N] x", "float[2, M] y"
    ),
    "index outside": net("h = Gather(t, i)  y = Add(x, h)", "float[2] t = {1, 2}, int64[1] i = {99}"),
    "least integer by -1": net(
        "h = Div(a, b)  c = Cast<to = 1>(h)  y = Add(x, c)", "int64[1] a = {-9223372036854775808}, int64[1] b = {-1}"
    ),
    "least int32 by -1": net(
        "h = Div(a, b)  c = Cast<to = 1>(h)  y = Add(x, c)", "int32[1] a = {-2147483648}, int32[1] b = {-1}"
    ),
    "sum beyond int32": net(
        "h = Add(a, b)  c = Cast<to = 1>(h)  y = Add(x, c)", "int32[1] a = {2147483647}, int32[1] b = {1}"
    ),
    "remainder of zero": net("h = Mod(a, b)  c = Cast<to = 1>(h)  y = Add(x, c)", "int32[1] a = {1}, int32[1] b = {0}"),
}  # fmt: skip
REFUSED = {
    "remainder of zero": "onnxruntime cannot load it",
    "least integer by -1": "node Div divides the least integer by -1",
    "least int32 by -1": "node Div divides the least integer by -1",
}

SCRIPT = """
import json, sys
from pathlib import Path
from mlcompress import graph
from mlcompress.errors import UserError
from mlcompress.graph import dependency
for path in sys.argv[1:]:
    try:
        model = graph.load(path)
        dependency.analyse(model)
        graph.macs(model)
        told = "loaded"
    except UserError as error:
        told = "; ".join(error.lines)
    except BaseException as error:
        told = f"BUG {type(error).__name__}: {error}"
    print(json.dumps([Path(path).stem, told, graph.tensor_bytes(model) if told == "loaded" else 0]), flush=True)
"""
MEMORY, SECONDS = 3 * 2**30, 60
"""Address space with the libraries in it, and CPU time of all files together (a second or two is usual)."""


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Bomb -> how it ended, and the bytes of the graph's tensors."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = []
    for name, text in BOMBS.items():
        proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 18]>' + text)
        if name == "no elements of a huge shape":
            proto.graph.initializer[0].CopyFrom(
                onnx.TensorProto(name="w", data_type=1, dims=[2**39, 0], raw_data=b"")
            )
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(proto.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (rows[-1:], done.stderr[-500:])
    return {name: (told, size) for name, told, size in rows}


@pytest.mark.parametrize("name", BOMBS)
def test_nothing_is_computed_or_allocated(ends: dict[str, tuple[str, int]], name: str) -> None:
    told, size = ends[name]
    if name in REFUSED:
        assert f"{name}.onnx: {REFUSED[name]}" in told
        return
    if name == "no elements of a huge shape":
        assert told == "loaded" or "cannot load it" in told
        return
    assert told == "loaded"
    assert size < 2**21
