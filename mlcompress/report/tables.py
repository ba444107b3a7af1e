"""The tables of a report as text cells; terminal, Markdown and HTML only lay them out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlcompress.gate import Checked
from mlcompress.report import words
from mlcompress.report.rows import Ratio, Report, Row
from mlcompress.report.words import Kind


@dataclass(frozen=True)
class Cell:
    """Text, and whether it says something good or bad."""

    text: str
    kind: Kind = "neutral"


@dataclass(frozen=True)
class Table:
    """The first column names the line; `numeric` says which columns are aligned to the right."""

    title: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    lines: tuple[tuple[Cell, ...], ...]
    note: str = ""


def tables(report: Report) -> list[Table]:
    """Size, accuracy, latency per provider, memory; those without any figure are left out."""
    found = [size(report), accuracy(report)]
    found.extend(latency(report, setting) for setting in words.settings(report))
    found.extend(table for table in (against_parent(report), memory(report)) if table.lines)
    return found


def size(report: Report) -> Table:
    """Bytes on disk and gzipped, parameters and MACs."""

    def line(label: str, row: Row) -> tuple[Cell, ...]:
        against = Cell("baseline")
        if row is not report.base:
            against = Cell(words.smaller(row, report.base), _below(row.bytes / report.base.bytes))
        zipped, params, macs = (
            words.size(row.compressed_bytes),
            words.count(row.params),
            words.count(row.macs),
        )
        return (Cell(label), Cell(words.size(row.bytes)), against, Cell(zipped), Cell(params), Cell(macs))

    header = ("Model", "On disk", "Size", "Gzipped", "Parameters", "MACs")
    note = "MACs: multiply-accumulates of one call at the measured batch size. They are not latency."
    return Table("Size", header, (False, True, False, True, True, True), _lines(report, line), note)


def accuracy(report: Report) -> Table:
    """The metric, its 95 % interval and the difference to the baseline."""

    def line(label: str, row: Row) -> tuple[Cell, ...]:
        score = row.score
        if score is None:
            return (Cell(label), Cell(words.NOT_MEASURED), *[Cell("–")] * 4)
        change = Cell("baseline")
        if row is not report.base:
            change = Cell(words.change(score, report.base.score))
        source = "SYNTHETIC DATA" if score.synthetic else words.source(score.source)
        value = f"{score.name} {words.metric(score)}"
        samples = Cell(str(score.samples))
        return (Cell(label), Cell(value), Cell(words.interval(score)), samples, change, Cell(source))

    header = ("Model", "Metric", "95 % interval", "Samples", "Change", "Source")
    note = "95 % interval: Wilson's for a proportion, normal for a mean. A dash: there is no simple one."
    return Table("Accuracy", header, (False, True, True, True, True, False), _lines(report, line), note)


def latency(report: Report, setting: str) -> Table:
    """p50 and p90 of one provider, and the time against the baseline."""

    def line(label: str, row: Row) -> tuple[Cell, ...]:
        timing = words.timing_at(row, setting)
        if timing is None:
            return (Cell(label), Cell(words.NOT_MEASURED), *[Cell("–")] * 3)
        compared = words.shown_ratio(timing)
        ratio, outcome = Cell("–"), Cell("baseline")
        if row is not report.base or timing.source == "card":
            ratio, outcome = Cell(words.ratio(compared)), _outcome(compared, words.twin(timing))
        return (Cell(label), Cell(words.ms(timing.p50)), Cell(words.ms(timing.p90)), ratio, outcome)

    title = f"Latency on {setting}"
    before = "baseline" if report.measured else "parent"
    header = ("Model", "p50 ms", "p90 ms", f"Time / {before}", "Outcome")
    numeric = (False, True, True, True, False)
    return Table(title, header, numeric, _lines(report, line), _latency_note(report))


def _latency_note(report: Report) -> str:
    if not report.measured:
        return "From the cards: each line of its own run, against the file its stage started from."
    note = "Time / baseline: below 1 is faster; in brackets the range over the repeats."
    if report.base.stage is None:
        note += " The baseline was cleaned first, as every stage cleans its input."
    return note


def against_parent(report: Report) -> Table:
    """What each stage bought by itself: the time against the parent, where that is not the baseline."""

    def lines() -> Iterator[tuple[Cell, ...]]:
        names = words.labels(report.rows)
        for label, row in zip(names, report.rows, strict=True):
            for timing in row.timings:
                if row.parent is None or row.parent == report.baseline or timing.to_parent is None:
                    continue
                ratio, outcome = Cell(words.ratio(timing.to_parent)), _outcome(timing.to_parent)
                yield (Cell(label), Cell(names[row.parent]), Cell(timing.provider), ratio, outcome)

    header = ("Model", "Made from", "Provider", "Time / parent", "Outcome")
    measured = tuple(lines()) if report.measured else ()
    return Table("Latency against the parent", header, (False, False, False, True, False), measured)


def memory(report: Report) -> Table:
    """Peak memory and load time of a fresh process."""

    def line(label: str, row: Row) -> tuple[Cell, ...]:
        if row.memory is None:
            return (Cell(label), Cell(words.NOT_MEASURED), Cell("–"), Cell("–"))
        peak, load = words.size(row.memory.peak_bytes), f"{row.memory.load_ms:.0f} ms"
        return (Cell(label), Cell(peak), Cell(load), Cell(words.source(row.memory.source)))

    lines = _lines(report, line) if any(row.memory for row in report.rows) else ()
    return Table("Memory", ("Model", "Peak", "Load", "Source"), (False, True, True, False), lines)


def gate(report: Report) -> list[Table]:
    """Every limit of the recipe, for the last file against the baseline; [] where the recipe has none."""
    if not report.limits:
        return []

    def line(limit: Checked) -> tuple[Cell, ...]:
        kind: Kind = "good" if limit.verdict == "pass" else "bad"
        return (Cell(limit.name), Cell(f"{limit.limit:g}"), Cell(limit.text), Cell(limit.verdict, kind))

    names = words.labels(report.rows)
    title = f"Gate: {names[-1]} against {names[report.baseline]}"
    header = ("Limit", "Allowed", "Measured", "Verdict")
    return [Table(title, header, (False, True, True, False), tuple(line(limit) for limit in report.limits))]


def _lines(report: Report, line: Callable[[str, Row], tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(line(label, row) for label, row in zip(words.labels(report.rows), report.rows, strict=True))


def _below(ratio: float) -> Kind:
    if abs(ratio - 1) < words.SAME:
        return "neutral"
    return "good" if ratio < 1 else "bad"


def _outcome(ratio: Ratio | None, of: str = "") -> Cell:
    kinds: dict[str, Kind] = {"faster": "good", "slower": "bad"}
    return Cell(words.verdict(ratio) + of, kinds.get(ratio.verdict, "neutral") if ratio else "neutral")
