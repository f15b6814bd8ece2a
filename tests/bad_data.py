"""Small source datasets in five native layouts, each with two sound images and one that a test spoils."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data.camvid import prepare as camvid
from data.coco import prepare as coco
from data.kitti import prepare as kitti
from data.voc import prepare as voc
from data.yolo import prepare as yolo

HW = (40, 60)
GOOD, BAD = ("000001", "000002"), "000003"


@dataclass(frozen=True)
class Source:
    """One dataset on disk: where the spoiled sample lies and how to convert it."""

    root: Path
    main: Callable[[list[str]], int]
    image: Path  # of the spoiled sample
    label: Path  # its annotation: text, XML, JSON or mask
    options: tuple[str, ...] = ()

    def convert(self, out: Path) -> int:
        """The exit code of the converter."""
        return self.main([str(self.root), str(out), "--json", "-", *self.options])


def photo(hw: tuple[int, int] = HW) -> np.ndarray:
    """(H, W, 3) uint8 noise."""
    return np.random.default_rng(3).integers(0, 256, (*hw, 3), np.uint8)


def write(path: Path, content: str | bytes | np.ndarray) -> None:
    """Text, bytes, or an image in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        done, data = cv2.imencode(path.suffix, content)
        assert done
        content = data.tobytes()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def make_coco(root: Path, suffix: str = ".jpg") -> Source:
    images, annotations = [], []
    for number, name in enumerate((*GOOD, BAD), 1):
        write(root / f"val/{name}{suffix}", photo())
        images.append({"id": number, "file_name": f"{name}{suffix}", "width": HW[1], "height": HW[0]})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 10]})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    write(root / "val.json", json.dumps(data))
    return Source(root, coco.main, root / f"val/{BAD}{suffix}", root / "val.json", ("--splits", "val=val.json:val"))


def make_voc(root: Path, suffix: str = ".jpg") -> Source:
    for name in (*GOOD, BAD):
        write(root / f"images/{name}{suffix}", photo())
        box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), (5, 5, 25, 15), strict=True))
        size = f"<size><width>{HW[1]}</width><height>{HW[0]}</height></size>"
        text = f"<annotation>{size}<object><name>car</name><bndbox>{box}</bndbox></object></annotation>"
        write(root / f"annotations/{name}.xml", text)
    return Source(root, voc.main, root / f"images/{BAD}{suffix}", root / f"annotations/{BAD}.xml", ("--set", "dawn"))


def make_yolo(root: Path, suffix: str = ".jpg") -> Source:
    write(root / "data.yaml", "path: .\nval: val/images\nnames: [car]\n")
    for name in (*GOOD, BAD):
        write(root / f"val/images/{name}{suffix}", photo())
        write(root / f"val/labels/{name}.txt", "0 0.25 0.25 0.3333 0.25\n")
    return Source(root, yolo.main, root / f"val/images/{BAD}{suffix}", root / f"val/labels/{BAD}.txt")


def make_kitti(root: Path, suffix: str = ".jpg") -> Source:
    for name in (*GOOD, BAD):
        write(root / f"training/image_2/{name}{suffix}", photo())
        write(root / f"training/label_2/{name}.txt", "Car 0 0 0 5 5 25 15 1 1 1 1 1 1 0\n")
    folder = root / "training"
    return Source(root, kitti.main, folder / f"image_2/{BAD}{suffix}", folder / f"label_2/{BAD}.txt")


def make_camvid(root: Path, suffix: str = ".jpg") -> Source:
    for split in ("train", "val", "test"):
        for name in (*GOOD, BAD) if split == "val" else GOOD[:1]:
            write(root / f"{split}/{name}{suffix}", photo())
            write(root / f"{split}annot/{name}.png", np.full(HW, 3, np.uint8))
    return Source(root, camvid.main, root / f"val/{BAD}{suffix}", root / f"valannot/{BAD}.png")


MAKE = {"coco": make_coco, "voc": make_voc, "yolo": make_yolo, "kitti": make_kitti, "camvid": make_camvid}


# ------------------------------------------------------------------------------------------------------ odd image files


def jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """A JPEG file; with another orientation than 1 it has an EXIF segment that says so."""
    content = cv2.imencode(".jpg", pixels)[1].tobytes()
    if orientation == 1:
        return content
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]


def png(rows: np.ndarray, bits: int, kind: int, palette: np.ndarray | None = None) -> bytes:
    """A PNG file by hand: (H, W) samples of 1 to 16 `bits`, colour type `kind` (0 grey, 3 palette)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = rows.shape
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        places = np.arange(bits - 1, -1, -1)
        lines = [np.packbits((row[:, None] >> places & 1).astype(np.uint8).ravel()).tobytes() for row in rows]
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    if palette is not None:
        content += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    return content + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))) + chunk(b"IEND", b"")
