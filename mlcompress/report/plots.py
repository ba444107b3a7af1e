"""Plots of the HTML report as SVG text, drawn in the page's own colours and without a date or a version.

Colours are placeholders that become CSS variables, so that one drawing serves light and dark pages. Text
stays text: it can be searched, and no font is embedded.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlcompress.report import words
from mlcompress.report.rows import Ratio, Report, Row, Score

_INK, _MUTED, _LINE, _FIRST, _SECOND = "#010203", "#020304", "#030405", "#040506", "#050607"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _LINE: "line", _FIRST: "accent", _SECOND: "soft"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mlcompress",  # without it the ids in the file are random
    "text.parse_math": False,  # a dollar sign in a file name is not mathematics
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)
_WIDTH = 7.0  # inches


@dataclass(frozen=True)
class Plot:
    """One drawing: inline SVG, its heading, and what a reader who does not see it should know."""

    title: str
    svg: str
    description: str


def draw(report: Report) -> list[Plot]:
    """Size and metric, latency per provider, bytes; those without figures are left out."""
    with matplotlib.rc_context(_STYLE):
        plots = [_size_against_metric(report)] if _scored(report) else []
        plots += [_latency(report, setting) for setting in words.settings(report) if _ratios(report, setting)]
        return [*plots, _bytes(report)]


def _scored(report: Report) -> list[tuple[str, Row, Score]]:
    """Rows with a finite value of one metric: the baseline's, or the first row's if the baseline has none."""
    named = zip(words.labels(report.rows), report.rows, strict=True)
    found = [(label, row, row.score) for label, row in named if row.score and math.isfinite(row.score.value)]
    name = report.base.score.name if report.base.score else found[0][2].name if found else ""
    return [entry for entry in found if entry[2].name == name]


def _size_against_metric(report: Report) -> Plot:
    scored = _scored(report)
    name = scored[0][2].name
    unit = 100 if name in words.PROPORTIONS else 1
    figure, axes = _figure(3.2)
    points = []
    for label, row, score in scored:
        x, y = row.bytes / 1e6, unit * score.value
        low = y if score.low is None else unit * score.low
        high = y if score.high is None else unit * score.high
        axes.errorbar(
            x, y, yerr=[[y - low], [high - y]], fmt="o", color=_FIRST, ecolor=_SECOND, elinewidth=2, capsize=3
        )
        points.append((x, y, label))
    _name_points(axes, points)
    axes.set_xlabel("MB on disk")
    axes.set_ylabel(f"{name}, %" if name in words.PROPORTIONS else name)
    said = ", ".join(f"{label} {x:.2f} MB {y:.4g}" for x, y, label in points)
    return _finish(figure, f"Size and {name}", said, "metric")


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """File names beside the points, moved apart where they would overlap."""
    axes.margins(x=0.12, y=0.15)
    middle = sum(axes.get_xlim()) / 2
    for side in (True, False):
        taken = float("-inf")
        beside = [point for point in points if (point[0] <= middle) == side]
        for x, y, label in sorted(beside, key=lambda point: point[1]):
            pixel = axes.transData.transform((x, y))[1] * 72 / axes.figure.dpi  # in points of 1/72 inch
            at = max(pixel, taken + 12)
            taken = at
            offset = (8 if side else -8, at - pixel)
            place: dict[str, Any] = {"ha": "left" if side else "right", "va": "center", "fontsize": 9}
            axes.annotate(label, (x, y), xytext=offset, textcoords="offset points", **place)


def _ratios(report: Report, setting: str) -> list[tuple[str, Ratio]]:
    """Label and time ratio of every compared model under one setting."""
    found = []
    for label, row in zip(words.labels(report.rows), report.rows, strict=True):
        timing = words.timing_at(row, setting)
        compared = words.shown_ratio(timing) if timing else None
        if timing is not None and compared is not None and (row is not report.base or not report.measured):
            found.append((label + words.twin(timing), compared))
    return found


def _latency(report: Report, setting: str) -> Plot:
    ratios = _ratios(report, setting)
    figure, axes = _figure(0.9 + 0.35 * len(ratios))
    for place, (_, ratio) in enumerate(ratios):
        spread = [[max(0.0, ratio.value - ratio.low)], [max(0.0, ratio.high - ratio.value)]]
        axes.errorbar(ratio.value, place, xerr=spread, fmt="o", color=_FIRST, ecolor=_SECOND, elinewidth=4)
    axes.axvline(1, color=_MUTED, linewidth=1.2, linestyle="--")
    axes.set_xscale("log")
    low, high = min(0.9, *(r.low for _, r in ratios)) / 1.1, max(1.1, *(r.high for _, r in ratios)) * 1.1
    axes.set_xlim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _name_lines(axes, [label for label, _ in ratios])
    axes.set_xlabel(f"time / {'baseline' if report.measured else 'parent'} (left of 1 is faster)")
    said = ", ".join(f"{label} {words.ratio(ratio)}" for label, ratio in ratios)
    return _finish(figure, f"Latency on {setting}", said, f"latency{words.settings(report).index(setting)}")


def _bytes(report: Report) -> Plot:
    names = words.labels(report.rows)
    figure, axes = _figure(0.9 + 0.5 * len(names))
    for place, row in enumerate(report.rows):
        axes.barh(place - 0.19, row.bytes / 1e6, 0.34, color=_FIRST, label="on disk" if place == 0 else None)
        axes.barh(
            place + 0.19,
            row.compressed_bytes / 1e6,
            0.34,
            color=_SECOND,
            label="gzipped" if place == 0 else None,
        )
        axes.annotate(
            words.size(row.bytes),
            (row.bytes / 1e6, place - 0.19),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.margins(x=0.14)
    _name_lines(axes, names)
    axes.set_xlabel("MB")
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    said = ", ".join(f"{n} {words.size(r.bytes)}" for n, r in zip(names, report.rows, strict=True))
    return _finish(figure, "Bytes on disk and gzipped", said, "bytes")


def _name_lines(axes: Axes, names: Sequence[str]) -> None:
    """One model per line, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _finish(figure: Figure, title: str, description: str, prefix: str) -> Plot:
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return Plot(title, _inline(text.getvalue(), prefix), description)


def _inline(svg: str, prefix: str) -> str:
    """An SVG file as an element of a page: no prologue, no name spaces, own ids, the page's colours."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)

    def tag(match: re.Match[str]) -> str:
        """Only tags are changed: a file name in the text may look like anything."""
        text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", match[0]).replace("xlink:href", "href")
        text = re.sub(r'(\sid="|url\(#|\shref="#)', rf"\g<1>{prefix}-", text)
        if text.startswith("<svg"):  # the page sets the size; the figure has a caption to be read aloud
            text = re.sub(r'\s(width|height)="[^"]*"', "", text).replace("<svg", '<svg aria-hidden="true"', 1)
        for placeholder, variable in _VARIABLES.items():
            text = text.replace(placeholder, f"var(--{variable})")
        return text

    return re.sub(r"<[^!>][^>]*>", tag, svg)
