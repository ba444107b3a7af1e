"""A report as Markdown: tables that GitHub and GitLab render, for a pull request or a job summary."""

import re

from mlcompress.report import chain, words
from mlcompress.report.rows import Report
from mlcompress.report.tables import Table, gate, tables


def render(report: Report) -> str:
    """`report` as Markdown text."""
    return "\n\n".join(_blocks(report)) + "\n"


def _blocks(report: Report) -> list[str]:
    blocks = [f"# {_escape(report.title)}"]
    blocks += [f"> **{_escape(notice)}**" for notice in words.notices(report)]
    outcomes = [_outcome(report, index) for index in range(len(report.rows)) if index != report.baseline]
    blocks += ["\n".join(outcomes)] if outcomes else []
    blocks += ["## Chain", _fenced(chain.draw(report.rows))]
    for table in [*gate(report), *tables(report)]:
        blocks += [f"## {_escape(table.title)}", _laid_out(table)]
        blocks += [table.note] if table.note else []
    said = words.warnings(report)
    if said:
        blocks += ["## Warnings", "\n".join(f"- {_escape(text)}" for text in said)]
    blocks += ["## Files", "\n".join(f"- {_code(row.path)} sha256 `{row.sha256}`" for row in report.rows)]
    return blocks


def _outcome(report: Report, index: int) -> str:
    said = "; ".join(finding.text for finding in words.findings(report, report.rows[index]))
    return f"- **{_escape(words.labels(report.rows)[index])}**: {_escape(said)}"


def _laid_out(table: Table) -> str:
    rule = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [[_escape(cell.text) for cell in line] for line in table.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(table.header), rule, *lines])


def _escape(text: str) -> str:
    """Neither markup nor a column break can come from a file name."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", words.plain(text))


def _code(text: str) -> str:
    """Inline code, fenced by more backticks than it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{words.plain(text)}{pad}{fence}"


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
