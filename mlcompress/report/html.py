"""A report as one HTML file: nothing is fetched, nothing is executed, and it prints."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlcompress.report import chain, plots, words
from mlcompress.report.rows import Report
from mlcompress.report.tables import gate, tables


def render(report: Report) -> str:
    """`report` as an HTML page; every text is escaped by the template, except the SVG drawn by `plots`."""
    page = Environment(
        loader=PackageLoader("mlcompress.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")
    labels = words.labels(report.rows)
    named = zip(labels, report.rows, strict=True)
    return page.render(
        report=report,
        baseline=labels[report.baseline],
        outcomes=[
            (label, row, words.findings(report, row)) for label, row in named if row is not report.base
        ],
        notices=words.notices(report),
        warnings=words.warnings(report),
        forest=chain.forest(report.rows),
        tables=[*gate(report), *tables(report)],
        plots=[(plot, Markup(plot.svg)) for plot in plots.draw(report)],  # our own drawing
        plain=words.plain,
        unbroken=_unbroken,
        note=chain.note,
    )


def _unbroken(text: str) -> str:
    """`text` with no line break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=%|[kMG]?B\b|pt\b)", "\N{NO-BREAK SPACE}", text)
