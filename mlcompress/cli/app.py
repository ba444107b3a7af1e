"""The program: its verbs, and how every way of ending becomes an exit status."""

import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from mlcompress import __version__, console
from mlcompress.cli.distill import distill
from mlcompress.cli.init import init
from mlcompress.cli.inspect import inspect
from mlcompress.cli.list import list_
from mlcompress.cli.providers import providers
from mlcompress.cli.prune import prune
from mlcompress.cli.quantize import quantize
from mlcompress.cli.report import report
from mlcompress.cli.schema import schema
from mlcompress.errors import UserError
from mlcompress.exits import Exit

app = typer.Typer(
    name="mlcompress",
    help="Make a trained ONNX model smaller and faster, and prove it.\n\n"
    "Each verb loads one model, applies one recipe and writes one artifact with a card beside it.",
    epilog="Exit status: 0 done, 1 a gate failed, 2 could not run, 3 internal error, 130 or 143 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

for verb in (distill, prune, quantize, report, inspect, init, providers, schema):
    app.command(no_args_is_help=verb not in (providers,))(verb)
app.command("list", no_args_is_help=True)(list_)

_UsageProblem: Any = typer.BadParameter.__base__
"""Typer carries its own click, which cannot be imported by that name."""


class _Terminated(BaseException):
    """SIGTERM: unwind, so that child processes and lock files are let go."""


def _print_version(wanted: bool) -> None:
    if wanted:
        console.data(__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None: ...


def main() -> NoReturn:
    """Run the command line of this process and exit with the documented status."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_status(sys.argv[1:]))


def _status(arguments: list[str]) -> int:
    try:
        status = int(app(arguments, prog_name="mlcompress", standalone_mode=False) or Exit.DONE)
        return _interrupted() if status == Exit.INTERRUPTED else status  # typer turns Ctrl-C into this status
    except UserError as problem:
        for line in problem.lines:
            console.error(line)
        return Exit.CANNOT_RUN
    except _UsageProblem as problem:
        return _usage(problem)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except _Terminated:
        console.error("terminated; if it was training, the same command goes on where it stopped")
        return Exit.TERMINATED
    except MemoryError:
        console.error(
            "memory: not enough; use a smaller measure.batch_size, train.batch_size or measure.shapes"
        )
        return Exit.CANNOT_RUN
    except Exception as bug:
        return _internal_error(bug, "--debug" in arguments)


def _usage(problem: Any) -> int:
    name = problem.ctx.command_path if problem.ctx else "mlcompress"
    text = problem.format_message()
    if text.startswith("Usage:"):  # no arguments: the help is the answer
        console.error(text)
        return Exit.CANNOT_RUN
    console.error(f"{name}: {text[:1].lower()}{text[1:].rstrip('.')}; see {name} --help")
    return Exit.CANNOT_RUN


def _internal_error(bug: Exception, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(bug)
    text = " ".join(str(bug).split())[:300]
    hint = "please report it with this output" if debug else "rerun with --debug and report it"
    console.error(f"internal error: {type(bug).__name__}: {text}; {hint}")
    return Exit.BUG


def _interrupted() -> int:
    console.error("interrupted; if it was training, the same command goes on where it stopped")
    return Exit.INTERRUPTED


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends what cannot be unwound
    raise _Terminated
