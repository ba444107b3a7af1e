"""Which keys of a data entry go together, and which of them come from `train`."""

from mlcompress.recipe.sections import DataEntry

SOURCES = ("path", "images", "table", "python", "synthetic")

_WRONG = {
    "path": ("size", "kwargs"),
    "images": ("label", "kwargs"),
    "table": ("size", "kwargs"),
    "python": ("size",),
    "synthetic": ("inputs", "label", "size", "kwargs", "transforms"),
}
"""source -> keys that mean nothing with it"""

_INHERITED = {
    ("path", "path"): ("inputs", "label", "transforms"),
    ("path", "python"): ("inputs", "label", "transforms"),
    ("python", "path"): ("inputs", "label", "transforms"),
    ("python", "python"): ("inputs", "label", "transforms"),
    ("table", "table"): ("inputs", "label", "transforms"),
    ("images", "images"): ("inputs", "size", "transforms"),
    ("path", "images"): ("transforms",),
    ("python", "images"): ("transforms",),
    ("images", "path"): ("transforms",),
    ("images", "python"): ("transforms",),
}
"""(source of the entry, source of `train`) -> keys that carry over; no row: none.

Array names and labels mean the same in two sets of arrays, column names in two tables, sizes in two image
folders. Pixels are pixels in arrays and image files, so transforms carry over between them. Synthetic data
has the model's own shapes and takes nothing.
"""


def sources(entry: DataEntry) -> list[str]:
    """The sources that the entry names; a usable entry names one."""
    return [source for source in SOURCES if getattr(entry, source)]


def check_keys(entry: DataEntry, where: str) -> list[str]:
    """Problems that the entry shows by itself, as lines."""
    named = sources(entry)
    if len(named) != 1:
        found = f"names {' and '.join(named)}" if named else "names no source"
        return [f"{where}: {found}; give exactly one of {', '.join(SOURCES)}"]
    source = named[0]
    problems = [
        f"{where}.{key}: means nothing with `{source}`; remove it"
        for key in _WRONG[source]
        if getattr(entry, key) not in (None, {})
    ]
    lists = [name for name, value in (entry.inputs or {}).items() if isinstance(value, list)]
    if source != "table":
        problems += [
            f"{where}.inputs.{name}: a list of columns is for `table`; name one array" for name in lists
        ]
    problems += [f"{where}.inputs.{name}: no columns" for name in lists if not (entry.inputs or {})[name]]
    return problems


def inherit(entry: DataEntry, train: DataEntry | None) -> DataEntry:
    """The entry with the keys that it leaves out taken from `train`.

    An entry that names its own `inputs` takes nothing. Source, `kwargs`, `limit` and `samples` are never
    taken; what else carries over depends on the two sources (`_INHERITED`).
    """
    if train is None or entry.inputs is not None:
        return entry
    mine, theirs = sources(entry), sources(train)
    if len(mine) != 1 or len(theirs) != 1:
        return entry  # check_keys reports it
    keys = _INHERITED.get((mine[0], theirs[0]), ())
    taken = {
        key: getattr(train, key)
        for key in keys
        if key not in entry.model_fields_set and getattr(train, key) is not None
    }
    return entry.model_copy(update=taken)
