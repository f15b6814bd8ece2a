"""Datasets as they come from the world: whatever is wrong gives one clear line, never a traceback, never silence."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bad_data import BAD, HW, MAKE, Source, jpeg, make_camvid, make_coco, photo, png, write

from perception.imagefile import decode_ids, decode_image, flaw, read_header, read_ids, read_image
from perception.labels import SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter, read_layout

LABELS = DatasetLabels(
    "town",
    "CC0",
    boxes=BoxLabels({"car": frozenset({"car"})}, frozenset({"car"})),
    masks={
        "scene": MaskLabels("seg", {0: "a", 3: "b"}, {0: frozenset({"sky"}), 3: frozenset({"road"})}, SCENE_CLASSES)
    },
)


def converted(source: Source, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, set[str]]:
    """Exit code, what a person reads, and the names of the images that were written."""
    code = source.convert(out)
    captured = capsys.readouterr()
    text = captured.err
    if code == 0:
        problems = json.loads(captured.out.splitlines()[-1])["problems"]
        text += "; ".join(f"{kind}: {entry['first']}" for kind, entry in problems.items())
    return code, text, {path.stem for path in (out / "images").rglob("*.*")}


def cmyk() -> bytes:
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("CMYK", HW[::-1], (0, 200, 200, 0)).save(file, "JPEG")
    return file.getvalue()


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# --------------------------------------------------------------------------------------------------------------- images

IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {  # how to spoil the image, and what the report says
    "empty": (lambda path: path.write_bytes(b""), "unreadable image, skipped: .*is empty"),
    "text": (lambda path: path.write_bytes(b"<html>not found</html>"), "unreadable image, .*is not a JPEG or PNG file"),
    "cut short": (lambda path: path.write_bytes(jpeg(photo((300, 400)))[:-2000]), "unreadable image, .*is cut short"),
    "only a start": (lambda path: path.write_bytes(jpeg(photo())[:30]), "unreadable image, .*is cut short or damaged"),
    "cut PNG": (lambda path: path.write_bytes(png(photo()[..., 0], 8, 0)[:-900]), "unreadable image, .*is cut short"),
    "missing": (lambda path: path.unlink(), "missing image, skipped|label file without an image"),
    "folder": (as_folder, "folder called like an image, skipped"),
    "renamed": (
        lambda path: os.rename(path, os.fsencode(path.parent) + b"/caf\xe9" + path.suffix.encode()),
        r"missing image, skipped|label file without an image",
    ),
}


@pytest.mark.parametrize("layout", MAKE)
@pytest.mark.parametrize("case", IMAGES)
def test_a_spoiled_image_is_left_out_and_said(tmp_path, capsys, layout, case):
    spoil, expected = IMAGES[case]
    source = MAKE[layout](tmp_path / "source")
    spoil(source.image)
    code, text, names = converted(source, tmp_path / "out", capsys)
    assert code == 0 and BAD not in names and len(names) == 2
    assert re.search(expected, text), text


@pytest.mark.parametrize("layout", MAKE)
@pytest.mark.parametrize("case", ["grey", "cmyk", "16 bits", "unicode"])
def test_an_odd_but_sound_image_is_kept(tmp_path, capsys, layout, case):
    source = MAKE[layout](tmp_path / "source")
    if case == "unicode":
        source = MAKE[layout](tmp_path / "straße 東京")
    else:
        content = {"grey": jpeg(photo()[..., 0]), "16 bits": png(np.full(HW, 51200), 16, 0)}
        source.image.write_bytes(content.get(case) or cmyk())
    code, text, names = converted(source, tmp_path / "out", capsys)
    assert (code, text) == (0, "") and BAD in names
    image = read_image(next(path for path in (tmp_path / "out/images").rglob(f"{BAD}.*")))
    assert image.shape == (*HW, 3) and image.dtype == np.uint8
    if case == "16 bits":
        assert (image == 200).all()
    if case == "cmyk":
        assert np.abs(image.astype(int) - (56, 56, 255)).max() < 8


@pytest.mark.parametrize("layout", MAKE)
@pytest.mark.parametrize("orientation", [3, 6])
def test_labels_of_a_turned_jpeg_are_of_the_upright_image(tmp_path, capsys, layout, orientation):
    """A picture that is stored on its side, and labels in the frame that a viewer shows: kept, and said."""
    source = MAKE[layout](tmp_path / "source")
    stored = photo(HW if orientation == 3 else HW[::-1])
    source.image.write_bytes(jpeg(stored, orientation))
    code, text, names = converted(source, tmp_path / "out", capsys)
    assert code == 0 and BAD in names and "EXIF orientation, whose labels are taken as of the upright image" in text
    image = read_image(next(path for path in (tmp_path / "out/images").rglob(f"{BAD}.*")))
    assert image.shape[:2] == HW


@pytest.mark.parametrize("layout", ["coco", "voc", "camvid"])  # where the source says the size that the annotator saw
def test_labels_of_the_stored_frame_of_a_turned_jpeg_are_refused(tmp_path, capsys, layout):
    source = MAKE[layout](tmp_path / "source")
    source.image.write_bytes(jpeg(photo(), 6))
    code, text, names = converted(source, tmp_path / "out", capsys)
    assert code == 0 and BAD not in names and "is 40x60 upright (EXIF)" in text and "60x40" in text


def test_a_name_that_is_not_utf8(tmp_path, capsys):
    source = MAKE["kitti"](tmp_path / "source")
    for path in (source.image, source.label):
        os.rename(path, os.fsencode(path.parent) + b"/caf\xe9" + path.suffix.encode())
    code, text, names = converted(source, tmp_path / "out", capsys)
    assert code == 0 and len(names) == 2 and r"file name that is not UTF-8, skipped: train/caf\udce9" in text


# ---------------------------------------------------------------------------------------------------------- annotations

BAD_BYTES = b"\ncaf\xe9 \xff\n"
SOUND = {(layout, "BOM") for layout in ("coco", "voc", "yolo", "kitti")} | {
    ("yolo", "empty"), ("kitti", "empty"),  # no object
    ("yolo", "missing"),  # no object, by definition of the format; a note says how many
    ("camvid", "bytes"),  # a PNG may have bytes after its end
}  # fmt: skip
KEPT = {("yolo", "folder"), ("yolo", "bytes"), ("kitti", "bytes")}  # without what is unreadable, which is counted


@pytest.mark.parametrize("layout", MAKE)
@pytest.mark.parametrize("case", ["empty", "missing", "folder", "bytes", "BOM"])
def test_a_spoiled_annotation(tmp_path, capsys, layout, case):
    source = MAKE[layout](tmp_path / "source")
    content = source.label.read_bytes()
    {
        "empty": lambda: source.label.write_bytes(b""),
        "missing": source.label.unlink,
        "folder": lambda: as_folder(source.label),
        "bytes": lambda: source.label.write_bytes(content + BAD_BYTES),
        "BOM": lambda: source.label.write_bytes(b"\xef\xbb\xbf" + content),
    }[case]()
    code, text, names = converted(source, tmp_path / "out", capsys)
    if (layout, case) in SOUND:
        assert (code, text) == (0, "") and BAD in names
    elif layout == "coco":  # the one file of all labels
        assert code == 2 and "val.json" in text and text.count("\n") == 1
    else:
        assert code == 0 and text and (BAD in names) == ((layout, case) in KEPT)


def test_the_other_boxes_of_a_file_with_bad_bytes_stay(tmp_path, capsys):
    for layout in ("yolo", "kitti"):
        source = MAKE[layout](tmp_path / layout)
        source.label.write_bytes(source.label.read_bytes() + BAD_BYTES)
        _, text, _ = converted(source, tmp_path / f"{layout}_out", capsys)
        assert "label line" in text
        splits = [path.name for path in (tmp_path / f"{layout}_out/images").iterdir()]
        samples = [sample for split in splits for sample in read_layout(tmp_path / f"{layout}_out", split)[1]]
        assert [len(sample.boxes) for sample in samples] == [1, 1, 1]


def test_an_encoding_that_nobody_knows(tmp_path, capsys):
    source = MAKE["voc"](tmp_path / "source")
    source.label.write_bytes(b'<?xml version="1.0" encoding="klingon"?><annotation/>')
    code, text, _ = converted(source, tmp_path / "out", capsys)
    assert code == 0 and "broken annotation, image skipped: 000003.xml: unknown encoding" in text


COCO: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {  # how to spoil it, and the report or error
    "no images": (lambda data: data.pop("images"), "expected a list of objects as 'images'"),
    "no annotations": (lambda data: data.pop("annotations"), "expected a list of objects as 'annotations'"),
    "no categories": (lambda data: data.pop("categories"), "expected a list of objects as 'categories'"),
    "category without a name": (lambda data: data["categories"][0].pop("name"), "category without id or name"),
    "category id twice": (lambda data: data["categories"].append({"id": 1, "name": "x"}), "two categories with the id"),
    "image without id": (lambda data: data["images"][2].pop("id"), "image without an id of its own, skipped"),
    "image id twice": (lambda data: data["images"][2].update(id=2), "image without an id of its own, skipped"),
    "image without name": (lambda data: data["images"][2].pop("file_name"), "without a plain relative file_name"),
    "name out of the folder": (
        lambda data: data["images"][2].update(file_name="../../x.jpg"),
        "without a plain relative file_name",
    ),
    "name twice": (lambda data: data["images"][2].update(file_name="000001.jpg"), "image of the same name twice"),
    "another size": (lambda data: data["images"][2].update(width=9), "image of another size than annotated, skipped"),
    "unknown image": (lambda data: data["annotations"][2].update(image_id=9), "annotation of an unknown image id"),
    "unknown category": (lambda data: data["annotations"][2].update(category_id=9), "of an unknown category id"),
    "no bbox": (lambda data: data["annotations"][2].pop("bbox"), "box that is not four numbers, dropped"),
    "text": (lambda data: data["annotations"][2].update(bbox=["a", 1, 2, 3]), "box that is not four numbers, dropped"),
    "NaN": (lambda data: data["annotations"][2].update(bbox=[float("nan"), 1, 2, 3]), "box that is not four numbers"),
    "infinite": (lambda data: data["annotations"][2].update(bbox=[1, 1, float("inf"), 3]), "that is not four numbers"),
    "three numbers": (lambda data: data["annotations"][2].update(bbox=[1, 2, 3]), "box that is not four numbers"),
    "negative width": (lambda data: data["annotations"][2].update(bbox=[20, 5, -9, 9]), "inverted box, dropped"),
    "empty": (lambda data: data["annotations"][2].update(bbox=[20, 5, 0, 9]), "empty box, dropped"),
    "outside": (lambda data: data["annotations"][2].update(bbox=[90, 5, 9, 9]), "box outside the image, dropped"),
    "partly outside": (lambda data: data["annotations"][2].update(bbox=[50, 5, 30, 9]), "partly outside .*, clipped"),
}  # fmt: skip


@pytest.mark.parametrize("case", COCO)
def test_spoiled_coco(tmp_path, capsys, case):
    spoil, expected = COCO[case]
    source = make_coco(tmp_path / "source")
    data = json.loads(source.label.read_text())
    spoil(data)
    source.label.write_text(json.dumps(data))
    code, text, _ = converted(source, tmp_path / "out", capsys)
    assert re.search(expected, text), text
    assert code == (2 if text.startswith("error: ") else 0) and (code == 0) == (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_label_ids_of_a_png_are_what_is_stored(tmp_path, bits, kind):
    """Whatever the depth, whatever the colours: also where two indices have one colour."""
    if (bits, kind) == (16, "palette"):
        pytest.skip("there is no such PNG")
    ids = np.random.default_rng(bits).integers(0, 2**bits, (7, 13))
    palette = np.random.default_rng(0).integers(0, 3, (2**bits, 3)) * 100 if kind == "palette" else None
    (tmp_path / "ids.png").write_bytes(png(ids, bits, 0 if palette is None else 3, palette))
    read = read_ids(tmp_path / "ids.png")
    assert read.shape == (7, 13) and (read == ids).all()


def test_a_palette_that_lacks_colours_and_has_transparency():
    image = pytest.importorskip("PIL.Image")
    ids = (np.arange(91) % 20).astype(np.uint8).reshape(7, 13)
    picture, file = image.frombytes("P", (13, 7), ids.tobytes()), io.BytesIO()
    picture.putpalette(list(range(60)))
    picture.save(file, "PNG", transparency=3)
    assert np.array_equal(decode_ids(file.getvalue()), ids)


MASKS: dict[str, tuple[bytes, str]] = {
    "other size": (png(np.full((20, 30), 3), 8, 0), "mask of another size than the image, sample skipped"),
    "unknown id": (png(np.full(HW, 77), 8, 0), "mask with unknown label ids, set to 255: val/000003 id 77"),
    "16 bits": (png(np.full(HW, 3000), 16, 0), "mask with unknown label ids, set to 255: val/000003 id 3000"),
    "colours": (cv2.imencode(".png", photo())[1].tobytes(), "mask that is not one channel of ids, sample skipped"),
    "JPEG": (jpeg(photo()[..., 0]), "is a JPEG file, which smears label ids"),
    "empty": (b"", "missing or unreadable mask, sample skipped: .*is empty"),
    "cut short": (png(np.full(HW, 3), 8, 0)[:-20], "missing or unreadable mask, sample skipped: .*is cut short"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_spoiled_mask(tmp_path, capsys, case):
    content, expected = MASKS[case]
    source = make_camvid(tmp_path / "source")
    source.label.write_bytes(content)
    code, text, names = converted(source, tmp_path / "out", capsys)
    assert code == 0 and re.search(expected, text), text
    assert (BAD in names) == ("set to 255" in expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_or_16_bit_mask_of_known_ids_is_read(tmp_path, capsys, bits):
    source = make_camvid(tmp_path / "source")
    palette = np.zeros((256, 3), int) if bits == 8 else None  # all black: the colours say nothing
    ids = np.random.default_rng(0).integers(0, 12, HW)
    source.label.write_bytes(png(ids, bits, 3 if bits == 8 else 0, palette))
    assert converted(source, tmp_path / "out", capsys)[:2] == (0, "")
    written = cv2.imread(str(tmp_path / f"out/masks/labels/val/{BAD}.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8 and np.array_equal(written, ids)


# ---------------------------------------------------------------------------------------------------- the common layout


@pytest.fixture
def town(tmp_path) -> Path:
    with LayoutWriter(tmp_path / "town", LABELS) as writer:
        for name in ("a", "b"):
            writer.add("val", name, photo(), boxes=[[1, 2, 9, 9]], categories=["car"])
    return tmp_path / "town"


def test_an_empty_split(town):
    (town / "images/test").mkdir()
    (town / "images/test/notes.txt").touch()
    with pytest.raises(ValueError, match=r"has no image in split 'test'; it has: test, val"):
        read_layout(town, "test")


def test_a_folder_called_like_an_image_is_no_sample(town):
    (town / "images/val/c.jpg").mkdir()
    assert [sample.image.name for sample in read_layout(town, "val")[1]] == ["a.jpg", "b.jpg"]
    as_folder(town / "images/val/b.jpg")
    with pytest.raises(ValueError, match=r"lists b\.jpg, but .* has no such image"):
        read_layout(town, "val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_with_a_byte_order_mark(town, encoding):
    for path in (town / "dataset.json", town / "boxes/val.json"):
        path.write_bytes(path.read_text().encode(encoding))
    labels, samples = read_layout(town, "val")
    assert labels == LABELS and len(samples[0].boxes) == 1


def test_json_that_is_not_utf8(town):
    path = town / "boxes/val.json"
    path.write_bytes(path.read_bytes().replace(b"car", b"caf\xe9"))
    with pytest.raises(ValueError, match=r"val\.json is not JSON: .*decode byte 0xe9"):
        read_layout(town, "val")


# ---------------------------------------------------------------------------------------------------------- image files


@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_and_pixels_agree_on_what_is_upright(orientation):
    content = jpeg(photo(), orientation)
    header = read_header(content)
    assert header and header.orientation == orientation and header.hw == decode_image(content).shape[:2]
    assert not flaw(content)


def test_headers():
    assert read_header(png(np.zeros((7, 13), int), 16, 0)).bits == 16
    assert read_header(png(np.zeros((7, 13), int), 4, 3, np.zeros((16, 3)))).colour == "palette"
    assert read_header(jpeg(photo()[..., 0])).colour == "grey" and read_header(cmyk()).colour == "cmyk"
    content = jpeg(photo())
    for length in range(0, 700, 7):
        assert flaw(content[:length]) and decode_image(content[:length]) is None
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\0\x08Exif\0\0II", b"GIF89a" + bytes(50), b"\x89PNG\r\n\x1a\n"):
        assert read_header(broken) is None and flaw(broken)


def test_a_thumbnails_end_is_not_the_images_end():
    """A JPEG may hold a small JPEG, whole, before its own pixels."""
    content, small = jpeg(photo()), jpeg(photo((8, 8)))
    segment = b"\xff\xe2" + (len(small) + 2).to_bytes(2, "big") + small
    whole = content[:2] + segment + content[2:]
    assert not flaw(whole) and flaw(whole[:-300]) == "is cut short"


def test_reading_says_what_is_wrong(tmp_path):
    write(tmp_path / "empty.png", b"")
    (tmp_path / "folder.png").mkdir()
    for name, expected in (("empty", "is empty"), ("folder", "is a folder"), ("none", "is missing")):
        for read in (read_image, read_ids):
            with pytest.raises(ValueError, match=rf"{name}\.png {expected}"):
                read(tmp_path / f"{name}.png")
