"""Image folders."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.opening import model, opened, refusal

COLOUR = model(2, x=("float32", ("N", 3, 8, 8)))
STEPS = [{"scale": 1 / 255}, {"layout": "NCHW"}]


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def plain(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes `dog` and `cat`, in several formats and sizes."""
    root = tmp_path / "pictures"
    picture(root / "dog" / "b.png", plain(8, 8, 200))
    picture(root / "dog" / "a.bmp", plain(16, 8, 100))
    picture(root / "cat" / "deep" / "c.jpg", plain(20, 40, 50))
    picture(root / "cat" / "d.webp", plain(9, 9, 0))
    (root / "cat" / ".hidden").write_text("not a picture")
    return root


def test_classes_are_sorted_by_name_and_files_within_them(folder: Path) -> None:
    data = opened({"images": str(folder), "size": 8, "transforms": STEPS}, COLOUR, labels=True)
    batch = data.take(np.arange(4))
    assert data.origin.classes == ("cat", "dog")
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0, 1, 1]
    assert batch.inputs["x"].shape == (4, 3, 8, 8)
    assert batch.inputs["x"].flags.c_contiguous
    means = batch.inputs["x"].mean(axis=(1, 2, 3)) * 255
    # cat/d.webp, cat/deep/c.jpg, dog/a.bmp, dog/b.png; lossy formats keep a flat colour to within one level
    np.testing.assert_allclose(means, [0, 50, 100, 200], atol=1.01)


def test_shorter_side_is_resized_then_the_centre_is_cut(tmp_path: Path) -> None:
    """16 x 48, red | green | blue thirds; at 8 pixels the central 8 columns of 24 are green."""
    stripes = np.zeros((16, 48, 3), np.uint8)
    for third in range(3):
        stripes[:, third * 16 : third * 16 + 16, third] = 255
    picture(tmp_path / "p" / "a" / "s.png", stripes)
    (tmp_path / "p" / "b").mkdir()
    data = opened({"images": str(tmp_path / "p"), "size": 8, "transforms": STEPS}, COLOUR, labels=True)
    image = data.take(np.array([0])).inputs["x"][0]
    assert image[1, :, 1:7].min() == 1.0
    assert image[0, :, 1:7].max() == 0.0
    assert image[2, :, 1:7].max() == 0.0


def test_leading_resize_and_crop_take_the_place_of_size(folder: Path) -> None:
    short = opened({"images": str(folder), "size": 8, "transforms": STEPS}, COLOUR)
    steps = [{"resize": 8}, {"crop": 8}, *STEPS]
    spelt = opened({"images": str(folder), "transforms": steps}, COLOUR)
    np.testing.assert_array_equal(short.take(np.arange(4)).inputs["x"], spelt.take(np.arange(4)).inputs["x"])
    larger = opened({"images": str(folder), "transforms": [{"resize": 12}, {"crop": 8}, *STEPS]}, COLOUR)
    assert larger.take(np.arange(4)).inputs["x"].shape == (4, 3, 8, 8)
    assert larger.fingerprint != spelt.fingerprint


def test_one_channel_model_gets_grey(folder: Path) -> None:
    data = opened(
        {"images": str(folder), "size": 8, "transforms": STEPS}, model(2, x=("float32", ("N", 1, 8, 8)))
    )
    assert data.take(np.arange(2)).inputs["x"].shape == (2, 1, 8, 8)


def test_channels_last_model_needs_no_layout(folder: Path) -> None:
    signature = model(2, x=("float32", ("N", 8, 8, 3)))
    data = opened({"images": str(folder), "size": 8, "transforms": [{"scale": 1 / 255}]}, signature)
    assert data.take(np.arange(2)).inputs["x"].shape == (2, 8, 8, 3)


def test_folder_without_classes_calibrates_but_has_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "flat" / "a.png", plain(8, 8, 1))
    entry = {"images": str(tmp_path / "flat"), "size": 8, "transforms": STEPS}
    assert not opened(entry, COLOUR).has_labels
    assert refusal(entry, COLOUR, labels=True) == [
        "data.train.label: these images have no classes; make one sub-folder per class"
    ]


def test_fingerprint_follows_content_not_names(folder: Path, tmp_path: Path) -> None:
    entry = {"images": str(folder), "size": 8, "transforms": STEPS}
    before = opened(entry, COLOUR).fingerprint
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "dog" / "b.png").rename(tmp_path / "elsewhere" / "dog" / "z.png")
    moved = {**entry, "images": str(tmp_path / "elsewhere")}
    assert opened(moved, COLOUR).fingerprint == before
    picture(tmp_path / "elsewhere" / "dog" / "z.png", plain(8, 8, 201))
    assert opened(moved, COLOUR).fingerprint != before


def test_broken_pictures_are_named(folder: Path) -> None:
    entry = {"images": str(folder), "size": 8, "transforms": STEPS}
    (folder / "dog" / "notes.txt").write_text("woof")
    whole = (folder / "dog" / "a.bmp").read_bytes()
    (folder / "dog" / "c.bmp").write_bytes(whole[:20])
    assert refusal(entry, COLOUR) == [
        f"data.train.images: {folder}/dog/c.bmp, {folder}/dog/notes.txt: "
        "not a readable image; remove or move it"
    ]


def test_formats_that_start_other_programs_are_not_opened(folder: Path) -> None:
    """Pillow decodes PostScript by running Ghostscript."""
    picture(folder / "dog" / "c.eps", plain(8, 8, 1))
    assert refusal({"images": str(folder), "size": 8, "transforms": STEPS}, COLOUR) == [
        f"data.train.images: {folder}/dog/c.eps: not a readable image; remove or move it"
    ]


def test_picture_cut_short_after_its_header_is_named(folder: Path) -> None:
    rng = np.random.default_rng(0)
    picture(folder / "dog" / "c.png", rng.integers(0, 256, (64, 64, 3), np.uint8))
    whole = (folder / "dog" / "c.png").read_bytes()
    (folder / "dog" / "c.png").write_bytes(whole[: len(whole) // 2])
    (line,) = refusal({"images": str(folder), "size": 8, "transforms": STEPS}, COLOUR)
    assert line.startswith(f"data.train.images: {folder}/dog/c.png: cannot decode: ")
    assert line.endswith("; remove the file")


def test_deep_pictures_are_refused_rather_than_clipped(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(folder / "dog" / "c.png")
    assert refusal({"images": str(folder), "size": 8, "transforms": STEPS}, COLOUR) == [
        f"data.train.images: {folder}/dog/c.png: more than 8 bits per channel; convert it to 8 bits"
    ]


def test_decompression_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # cat/deep/c.jpg has 800 pixels
    assert refusal({"images": str(folder), "size": 8, "transforms": STEPS}, COLOUR) == [
        f"data.train.images: {folder}/cat/deep/c.jpg: not a readable image; remove or move it"
    ]


def test_crop_larger_than_a_picture(folder: Path) -> None:
    (line,) = refusal(
        {"images": str(folder), "transforms": [{"crop": 9}, *STEPS]}, model(2, x=("float32", ("N", 3, 9, 9)))
    )
    assert line == (
        f"data.train.images: {folder}/dog/a.bmp, {folder}/dog/b.png: "
        "smaller than the crop; resize first or crop less"
    )


def test_size_is_asked_for_and_layout_is_suggested(folder: Path) -> None:
    assert refusal({"images": str(folder), "transforms": STEPS}, COLOUR) == [
        "data.train.size: pictures differ in size; write `size: 8` (resize, then central crop)"
    ]
    assert refusal({"images": str(folder), "size": 8, "transforms": STEPS[:1]}, COLOUR) == [
        "data.train.inputs.x: 'image' gives samples [8, 8, 3], the model takes [3, 8, 8]; "
        "add `{layout: NCHW}` to `transforms`"
    ]


def test_missing_class_folder_is_noticed(folder: Path) -> None:
    """Ids follow from the names that are there: a folder short of a class would shift them."""
    signature = model(3, x=("float32", ("N", 3, 8, 8)))
    entry = {"images": str(folder), "size": 8, "transforms": STEPS}
    (line,) = refusal(entry, signature, labels=True)
    assert line.startswith("data.train.label: 2 class names (cat ... dog) for 3 classes of the model")
    (folder / "ant").mkdir()
    assert opened(entry, signature, labels=True).origin.classes == ("ant", "cat", "dog")


def test_without_pillow_the_extra_is_named(folder: Path) -> None:
    program = f"""
import sys
sys.modules["PIL"] = None  # importing it raises ImportError, as when it is not installed
from tests.data.opening import model, opened
from mlcompress.errors import UnsupportedError
try:
    opened({{"images": {str(folder)!r}, "size": 8}}, model())
except UnsupportedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "data.train.images: needs Pillow; pip install mlcompress[images]\n"
