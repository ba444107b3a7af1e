"""A report on the terminal: the outcome of each model in words, then the tables. Fits 80 columns."""

from rich.table import Table as RichTable
from rich.text import Text

from mlcompress import console
from mlcompress.report import chain, words
from mlcompress.report.rows import Report
from mlcompress.report.tables import Table, gate, tables

_STYLES = {"good": "green", "bad": "red", "neutral": ""}


def show(report: Report, *, width: int | None = None) -> None:
    """Print `report` on stdout.

    Args:
        report: figures to print.
        width: columns; None is the terminal's width, 120 where there is no terminal.
    """
    out = console.table_console(width)
    for notice in words.notices(report):
        out.print(Text(notice, style="bold yellow"))
    out.print(Text(chain.draw(report.rows)), no_wrap=True, overflow="ellipsis")
    for label, row in zip(words.labels(report.rows), report.rows, strict=True):
        for finding in words.findings(report, row):
            out.print(Text.assemble((f"{label}: ", "bold"), (finding.text, _STYLES[finding.kind])))
    for table in [*tables(report), *gate(report)]:
        out.print()
        out.print(Text(table.title, style="bold"))
        out.print(_laid_out(table))
        if table.note:
            out.print(Text(table.note, style="dim"))


def _laid_out(table: Table) -> RichTable:
    """Long model names are folded; every other column keeps its width."""
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    for index, (name, numeric) in enumerate(zip(table.header, table.numeric, strict=True)):
        first = index == 0
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=not first)
    for line in table.lines:
        drawn.add_row(*[Text(cell.text, style=_STYLES[cell.kind]) for cell in line])
    return drawn
