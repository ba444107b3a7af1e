"""`images`: a folder with one sub-folder of pictures per class, decoded batch by batch."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcompress.data.columns import Array, ArrayColumn, Column, ModelInput, Source, spell
from mlcompress.errors import DataError, UnsupportedError, one_line, shorten
from mlcompress.recipe.sections import DataEntry, Transform

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""Pillow knows more; those can start other programs (EPS) or are not photographs."""
DEEP_MODES = ("I", "F")
"""Pillow clips these to 0-255 on conversion instead of scaling them."""


def open_images(entry: DataEntry, inputs: Sequence[ModelInput], where: str) -> Source:
    """Columns `image` uint8 [N, H, W, 3] (or 1, as the model's image input has) and `label` int64 [N].

    Class sub-folders sorted by name are the label ids; an empty one keeps its id. A folder without
    sub-folders gives images without labels. Raises DataError, or UnsupportedError without Pillow.
    """
    here = f"{where}.images"
    pillow(here)
    root = Path(str(entry.images))
    if not root.is_dir():
        raise DataError(f"{here}: {root}: no such folder")
    folders = sorted(
        folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    per_class = [_files(folder) for folder in folders] if folders else [_files(root)]
    files = tuple(file for files in per_class for file in files)
    if not files:
        raise DataError(f"{here}: {root}: no images; put them into one sub-folder per class")
    column = ImageColumn(files, geometry(entry, inputs, where), _mode(inputs), here)
    columns: dict[str, Column] = {"image": column}
    if folders:
        ids = np.repeat(np.arange(len(folders), dtype=np.int64), [len(files) for files in per_class])
        columns["label"] = ArrayColumn(ids)
    listed = {name: spell(column.dtype, column.shape) for name, column in columns.items()}
    return Source("images", listed, columns.__getitem__, tuple(folder.name for folder in folders))


def geometry(entry: DataEntry, inputs: Sequence[ModelInput], where: str) -> tuple[Transform, ...]:
    """Resize and crop steps applied while decoding: `size`, or else the leading steps of `transforms`.

    Raises DataError when they leave pictures of different sizes.
    """
    if entry.size is not None:
        return tuple(Transform.model_validate({step: entry.size}) for step in ("resize", "crop"))
    steps: list[Transform] = []
    for step in entry.transforms or []:
        if step.resize is None and step.crop is None:
            break
        steps.append(step)
    if not any(step.crop is not None for step in steps):
        sides = [str(size) for tensor in inputs if len(tensor.shape) == 4 for size in tensor.shape[2:3]]
        side = sides[0] if sides and sides[0].isdigit() else "224"
        raise DataError(
            f"{where}.size: pictures differ in size; write `size: {side}` (resize, then central crop)"
        )
    return tuple(steps)


def _files(folder: Path) -> list[Path]:
    visible = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted(visible, key=lambda file: file.relative_to(folder).as_posix())


def _mode(inputs: Sequence[ModelInput]) -> str:
    images = [tensor for tensor in inputs if len(tensor.shape) == 4]
    return "L" if any(1 in (tensor.shape[1], tensor.shape[3]) for tensor in images) else "RGB"


@dataclass(frozen=True)
class ImageColumn:
    """Picture files, decoded when their rows are taken."""

    files: tuple[Path, ...]
    steps: Sequence[Transform]
    mode: str
    """RGB or L"""
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        side = next(step.crop for step in reversed(self.steps) if step.crop is not None)
        last = self.steps[-1].resize or side  # a square stays square when it is resized
        return (len(self.files), last, last, len(self.mode) if self.mode == "RGB" else 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def take(self, rows: Array) -> Array:
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            pixels[place] = self._decode(self.files[row])
        return pixels

    def _decode(self, file: Path) -> Array:
        try:
            with _open(file) as stored:
                image = stored.convert(self.mode)
        except Exception as error:  # Pillow's decoders raise about anything on broken files
            raise DataError(
                f"{self.where}: {file}: cannot decode: {one_line(error)}; remove the file"
            ) from error
        for step in self.steps:
            if step.resize is not None:
                height, width = resized(image.height, image.width, step.resize)
                image = image.resize((width, height), _bilinear())
            elif step.crop is not None:
                top, left = (crop_start(side, step.crop) for side in (image.height, image.width))
                image = image.crop((left, top, left + step.crop, top + step.crop))
        return np.asarray(image, np.uint8).reshape(self.shape[1:])

    def whole(self) -> Array:
        return self.take(np.arange(len(self.files)))

    def content(self, rows: Array) -> Iterator[bytes]:
        decoding = [self.mode, *(step.model_dump(exclude_unset=True) for step in self.steps)]
        yield json.dumps(decoding).encode()
        for row in rows:
            stored = self.files[row].read_bytes()
            yield len(stored).to_bytes(8, "little")  # where one file ends
            yield stored

    def faults(self, rows: Array) -> list[str]:
        """Files whose header is not that of a usable picture (the pixels are not decoded)."""
        unreadable, deep, small = [], [], []
        for file in (self.files[row] for row in rows):
            try:
                with _open(file) as image:
                    if image.mode.startswith(DEEP_MODES):
                        deep.append(str(file))
                    if not self._fits(image.height, image.width):
                        small.append(str(file))
            except Exception:  # as in _decode; the file is named below
                unreadable.append(str(file))
        said = {
            "not a readable image; remove or move it": unreadable,
            "more than 8 bits per channel; convert it to 8 bits": deep,
            "smaller than the crop; resize first or crop less": small,
        }
        return [f"{self.where}: {shorten(names)}: {what}" for what, names in said.items() if names]

    def _fits(self, height: int, width: int) -> bool:
        for step in self.steps:
            if step.resize is not None:
                height, width = resized(height, width, step.resize)
            elif step.crop is not None:
                if min(height, width) < step.crop:
                    return False
                height = width = step.crop
        return True


def resized(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Size once the shorter side is `shorter`; the longer is cut to whole pixels (as torchvision does)."""
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def crop_start(side: int, crop: int) -> int:
    """First row or column of a central crop; halves go to the even number (as torchvision does)."""
    return round((side - crop) / 2)


def resize_planes(planes: Array, height: int, width: int) -> Array:
    """Bilinear with antialiasing, each plane for itself: uint8 or float32 [P, H, W] -> [P, height, width]."""
    from PIL import Image

    done = np.empty((len(planes), height, width), planes.dtype)
    for place, plane in enumerate(planes):
        done[place] = np.asarray(Image.fromarray(plane).resize((width, height), _bilinear()))
    return done


def pillow(here: str) -> None:
    """Raises UnsupportedError, with the command that helps, when Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(f"{here}: needs Pillow; pip install mlcompress[images]") from error


def _open(file: Path) -> Any:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # a refusal, not a remark
        return Image.open(file, formats=FORMATS)


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR
