"""The facts as sections of short tables."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlcompress import console
from mlcompress.errors import shorten

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = 40
"""Of one table, unless all are asked for."""
_DECODED = 1.02
"""Decoded bytes per stored ones from which they are worth a word: folding a few shapes is not."""
_SPELT = {
    "narrowable_units": "units that a student can have fewer of",
    "exact_families": "of them exact",
    "frozen": "places that keep their channels",
    "can_run_as_integers": "nodes can run as integers",
    "by_the_rules": "of them do by the placement rules, at batch 1",
}


_ZERO_COUNTS = ("by_the_rules",)
"""Facts that are worth a line when they are 0."""


def show(facts: dict[str, Any], *, everything: bool = False) -> None:
    """Print the facts on stdout; tables end after 40 rows unless `everything` is asked for. What was measured
    and groups are shown alone.
    """
    _head(facts)
    if "sensitivity" in facts:
        _print("Sensitivity", ("layer", "op", "SNR dB", "drop"), _sensitivity(facts), everything)
        return
    if "groups" in facts:
        _groups(facts["groups"], everything)
        return
    _print(
        "Layers",
        ("layer", "op", "weight", "shape", "stored", "bytes", "params", "MACs"),
        _layers(facts),
        everything,
    )
    _print("Tensors that a recipe can name", ("tensor", "made by", "type", "shape"), _taps(facts), everything)
    _print("Prunable families", ("family", "kind", "units", "params", "exact"), _families(facts), everything)
    kept = [(row["node"], row["op"], row["reason"]) for row in facts["frozen"]]
    _print("What keeps its channels", ("at", "op", "reason"), kept, everything)
    _stages(facts["stages"])
    for name, stage in facts["stages"].items():
        if stage["possible"]:
            left = _by_reason(stage.get("left_in_float", ()), everything)
            _print(f"Left in float by {name}", ("nodes", "count", "reason"), left, everything)


def _at(facts: dict[str, Any]) -> str:
    """The shapes that the MACs are counted at, where they are not just one sample of what is declared."""
    assumed = facts["macs_shapes"]
    free = [
        one["name"] for one in facts["inputs"] if sum(not isinstance(size, int) for size in one["shape"]) > 1
    ]
    told = ", ".join(f"{name} {assumed[name]}" for name in free)
    return f"batch 1, {told} (free lengths)" if told else "batch 1"


def _head(facts: dict[str, Any]) -> None:
    macs = "unknown" if facts["macs"] is None else f"{facts['macs']:,}"
    sets = ", ".join(f"{domain or 'opset'} {version}" for domain, version in facts["operator_sets"].items())
    console.data(f"{facts['model']}: {sets}, {facts['params']:,} parameters, {macs} MACs at {_at(facts)}")
    stored, plain = facts["stored_bytes"], facts["bytes"]
    decoded = f" in the file, {plain:,} decoded" if plain > _DECODED * stored else ""
    console.data(f"  {stored:,} bytes of numbers{decoded}")
    for side in ("inputs", "outputs"):
        for tensor in facts[side]:
            console.data(
                f"  {side[:-1]:<6} {tensor['name']}  {tensor['dtype']} {_shape(tensor['shape'], ', ')}"
            )
    for key, value in facts["metadata"].items():
        console.data(f"  {key}: {' '.join(value.split())[:100]}")


def _groups(groups: dict[str, Any], everything: bool) -> None:
    families = [
        (
            row["name"],
            row["kind"],
            f"{row['units']:,}",
            ", ".join(_member(member) for member in row["members"]),
            f"{row['params_per_unit']:,}",
            "unknown" if row["macs_per_unit"] is None else f"{row['macs_per_unit']:,}",
            "yes" if row["exact"] else f"no: {row['reason']}",
        )
        for row in groups["families"]
    ]
    columns = ("family", "kind", "units", "members", "params each", "MACs each", "exact")
    _print("Families: units that can go one by one, with all their members", columns, families, everything)
    layers = [
        (
            row["name"],
            f"{row['from']} -> {row['to']}",
            str(row["nodes"]),
            f"{row['params']:,}",
            "unknown" if row["macs"] is None else f"{row['macs']:,}",
        )
        for row in groups["layers"]
    ]
    _print(
        "Layers: residual branches that can go",
        ("sum", "between", "nodes", "params", "MACs"),
        layers,
        everything,
    )
    kept = [(row["node"], row["op"], row["reason"]) for row in groups["frozen"]]
    _print("What keeps its channels", ("at", "op", "reason"), kept, everything)


def _member(member: dict[str, Any]) -> str:
    """`fc.weight[1] x36`: axis, and how many positions of it a unit has, where more than one."""
    return f"{member['tensor']}[{member['axis']}]" + (f" x{member['each']}" if member["each"] > 1 else "")


def _sensitivity(facts: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            row["node"],
            row["op"],
            "no noise" if row["snr_db"] is None else f"{row['snr_db']:.1f}",
            "no samples" if row["drop"] is None else f"{row['drop']:+.4f}",
        )
        for row in facts["sensitivity"]
    ]


def _layers(facts: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            row["name"],
            row["op"],
            row["weight"],
            "x".join(map(str, row["shape"])),
            row["stored"] or "",
            "" if row["bytes"] is None else f"{row['bytes']:,}",
            f"{row['params']:,}",
            "unknown" if row["macs"] is None else f"{row['macs']:,}",
        )
        for row in facts["layers"]
    ]


def _taps(facts: dict[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for row in facts["tensors"]:
        maker = row["op"] + (", an output" if row["output"] else "")
        rows.append((row["name"], maker, row["dtype"] or "unknown", _shape(row["shape"], " ")))
    return rows


def _families(facts: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            row["name"],
            row["kind"],
            f"{row['units']:,}",
            f"{row['params']:,}",
            "yes" if row["exact"] else f"no: {row['reason']}",
        )
        for row in facts["families"]
    ]


def _stages(stages: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, stage in stages.items():
        own = {key: stage[key] for key in stage if key not in ("possible", "why_not", "left_in_float")}
        told = [
            f"{_SPELT.get(key, key)}: {_number(value)}"
            for key, value in own.items()
            if value != 0 or key in _ZERO_COUNTS
        ]
        rows.append((name, "yes" if stage["possible"] else "no", "\n".join([*stage["why_not"], *told])))
    _print("What each stage can do with it", ("stage", "possible", "because"), rows, True)


def _by_reason(rows: Sequence[dict[str, str]], everything: bool) -> list[Sequence[str]]:
    """One row a reason, with the nodes that it holds for."""
    nodes: dict[str, list[str]] = {}
    for row in rows:
        nodes.setdefault(row["reason"], []).append(row["node"])
    most = len(rows) if everything else 3
    return [(shorten(names, most), str(len(names)), reason) for reason, names in nodes.items()]


def _number(value: Any) -> str:
    return "only samples tell" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], everything: bool) -> None:
    if not rows:
        return
    from rich.text import Text  # plain: brackets in names are no markup

    shown = rows if everything else rows[:_ROWS]
    table = _table(title, columns)
    for row in shown:
        table.add_row(*map(Text, row))
    console.data("")
    console.table_console().print(table)
    if len(shown) < len(rows):
        rest = Counter(row[1] for row in rows[len(shown) :]) if len(columns) > 2 else Counter()
        kinds = ", ".join(f"{count} {kind}" for kind, count in rest.most_common(4))
        console.data(
            f"... {len(rows) - len(shown)} more{f' ({kinds}, ...)' if kinds else ''}: --all or --json"
        )


def _table(title: str, columns: Iterable[str]) -> "Table":
    """Names are wrapped, never cut: a recipe needs the whole of them."""
    from rich.table import Column, Table

    numbers = (
        "bytes",
        "params",
        "MACs",
        "units",
        "count",
        "params each",
        "MACs each",
        "nodes",
        "SNR dB",
        "drop",
    )
    folded = [
        Column(column, overflow="fold", justify="right" if column in numbers else "left")
        for column in columns
    ]
    return Table(*folded, title=title, title_justify="left", box=None)


def _shape(shape: Sequence[int | str | None] | None, between: str) -> str:
    if shape is None:
        return "unknown"
    return "[" + between.join("?" if size is None else str(size) for size in shape) + "]"
