"""A zip archive of torch, read with care: it may come from anywhere."""

import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlcompress.errors import ModelError

LARGEST_TEXT = 64 * 2**20
"""Bytes that all compressed entries may unpack to. Torch compresses code, never weights."""
_MOST_ENTRIES = 200_000
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Archive:
    """Entries under the archive's one folder, by their path in it."""

    path: Path
    entries: dict[str, zipfile.ZipInfo]

    def read(self, name: str) -> bytes:
        """Raises ModelError when the entry is missing or damaged."""
        if name not in self.entries:
            raise ModelError(f"{self.path}: holds no {name}; save it again")
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(self.entries[name])
        except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            raise ModelError(
                f"{self.path}: {printable(name)} in it is damaged; copy or save it again"
            ) from None

    def under(self, folder: str) -> list[str]:
        """Names that begin with `folder`, in the order of the file."""
        return [name for name in self.entries if name.startswith(folder)]


def open_archive(path: Path) -> Archive:
    """The archive's directory; nothing is unpacked.

    Raises ModelError for files that are no zip archive, that are truncated, that name paths outside
    themselves or one path twice, and for those that would unpack to more than `LARGEST_TEXT` bytes.
    """
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
        with zipfile.ZipFile(path) as file:
            listed = file.infolist()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OverflowError):
        raise ModelError(f"{path}: is a truncated or damaged zip archive; copy or save it again") from None
    if head != b"PK\x03\x04":
        raise ModelError(f"{path}: has something in front of its zip archive; copy or save it again")
    if problem := _problem(listed, path.stat().st_size):
        raise ModelError(f"{path}: {problem}")
    entries = {info.filename.partition("/")[2]: info for info in listed if not info.is_dir()}
    return Archive(path, entries)


def printable(text: str) -> str:
    """Text of a file for one line of an error, at most 80 characters."""
    clean = "".join(mark if mark.isprintable() else "?" for mark in text)
    return clean if len(clean) <= 80 else clean[:77] + "..."


def _problem(listed: list[zipfile.ZipInfo], size: int) -> str | None:
    names = [info.filename for info in listed]
    if len(listed) > _MOST_ENTRIES:
        return f"holds {len(listed)} entries, more than any model; it is not opened"
    if outside := [name for name in names if _is_outside(name)]:
        return f"names the path {printable(outside[0])!r}, which is outside of it; it is not opened"
    if len(set(names)) < len(names):
        return "holds one path twice; it is not opened"
    if "serialized_exported_program.json" in names:
        return (
            "is a program of torch 2.7 or older; save it again with torch.export.save of torch 2.8 or newer"
        )
    if len({name.partition("/")[0] for name in names}) != 1:
        return "has no single folder, as archives of torch have; save it again"
    if any(info.flag_bits & _ENCRYPTED for info in listed):
        return "is encrypted; unpack it first"
    if any(stat.S_ISLNK(info.external_attr >> 16) for info in listed):
        return "holds a symbolic link; it is not opened"
    if min((info.header_offset for info in listed), default=0) != 0:
        # Of an archive that is cut off, readers find the directory of an archive inside it.
        return "is a truncated or damaged zip archive; copy or save it again"
    stored = sum(info.compress_size for info in listed)
    unpacked = sum(info.file_size for info in listed if info.compress_type != zipfile.ZIP_STORED)
    plain = [info for info in listed if info.compress_type == zipfile.ZIP_STORED]
    if stored > size or any(info.file_size != info.compress_size for info in plain):
        return "names more bytes than it has; copy or save it again"
    if unpacked > LARGEST_TEXT:
        return f"would unpack to {unpacked} bytes, which no model needs; it is not opened"
    return None


def _is_outside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        not parts or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or ":" in parts[0]
    )
