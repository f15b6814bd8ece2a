"""Image files as people have them: what the bytes are, whether they are whole, and the pixels or label ids in them.

OpenCV decodes. Before it does, this file reads the header of JPEG and PNG itself, for what OpenCV does not say or do: a
JPEG that was cut short comes back with a grey rest, a palette PNG as colours instead of indices, grey of less than 8
bits scaled to 255, and a path that is not UTF-8 ends the process. So Python opens the files, and OpenCV gets bytes.

Pixels are upright: the EXIF orientation is applied to images, as every viewer does, and `hw` is the size that is shown.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

__all__ = [
    "Header",
    "decode_ids",
    "decode_image",
    "encode_image",
    "flaw",
    "orientation",
    "read_header",
    "read_ids",
    "read_image",
]

Colour = Literal["grey", "colour", "palette", "cmyk"]
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS: dict[int, Colour] = {0: "grey", 2: "colour", 3: "palette", 4: "grey", 6: "colour"}
JPEG_COLOURS: dict[int, Colour] = {1: "grey", 3: "colour", 4: "cmyk"}
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF markers, which hold the size
ORIENTATION = 0x112  # EXIF tag
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of a JPEG or PNG file say."""

    kind: Literal["jpeg", "png"]
    stored_hw: tuple[int, int]
    bits: int  # of one sample
    colour: Colour
    orientation: int = 1  # EXIF, 1 to 8: 1 = as stored, 3 = upside down, 5 to 8 = on its side
    scan: int = field(default=0, compare=False)  # where a JPEG's pixels start, bytes

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) as shown."""
        return self.stored_hw[::-1] if self.orientation >= 5 else self.stored_hw


def read_header(content: bytes) -> Header | None:
    """The header of a JPEG or PNG file; None for anything else, or if it is broken."""
    try:
        if content.startswith(PNG_START):
            return _png_header(content)
        if content.startswith(b"\xff\xd8"):
            return _jpeg_header(content)
    except (struct.error, IndexError, KeyError):
        pass
    return None


def _png_header(content: bytes) -> Header | None:
    orientation = 1
    found: tuple[int, ...] = ()
    for kind, data in _png_chunks(content):
        if kind == b"IHDR":
            found = struct.unpack(">IIBB", data[:10])
        elif kind == b"eXIf":
            orientation = _orientation(data)
        elif kind == b"IDAT":
            break
    if not found or 0 in found[:2]:
        return None
    width, height, bits, colour = found
    return Header("png", (height, width), bits, PNG_COLOURS[colour], orientation)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of every chunk."""
    at = len(PNG_START)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at + 8 : at + 8 + length]
        at += length + 12


def _jpeg_header(content: bytes) -> Header | None:
    at, orientation = 2, 1
    size: tuple[int, ...] = ()
    while at + 4 <= len(content):
        marker = content[at + 1]
        if content[at] != 0xFF:
            return None
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes and markers without a length
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        data = content[at + 4 : at + 2 + length]
        if marker in JPEG_FRAMES:
            size = struct.unpack_from(">BHHB", data)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0"):
            orientation = _orientation(data[6:])
        elif marker == 0xDA:
            if not size or 0 in size[1:3]:
                return None
            bits, height, width, components = size
            return Header("jpeg", (height, width), bits, JPEG_COLOURS[components], orientation, at)
        at += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """The orientation in EXIF data; 1 if there is none, or nonsense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order:
            (start,) = struct.unpack_from(f"{order}I", tiff, 4)
            (entries,) = struct.unpack_from(f"{order}H", tiff, start)
            for number in range(entries):
                tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * number)
                if tag == ORIENTATION:
                    return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def orientation(content: bytes) -> int:
    """EXIF orientation of a JPEG or PNG file, 1 to 8; 1 = pixels are shown as they are stored."""
    found = read_header(content)
    return found.orientation if found else 1


def flaw(content: bytes) -> str:
    """What is wrong with the bytes of a JPEG or PNG file, such as "is empty"; "" if it looks whole."""
    if not content:
        return "is empty"
    found = read_header(content)
    if found is None:
        known = content.startswith((PNG_START, b"\xff\xd8"))
        return "is cut short or damaged" if known else "is not a JPEG or PNG file"
    # Among the pixels of a JPEG every 0xFF is followed by 0 or a restart marker: the end marker can be searched for.
    end = content.rfind(b"\xff\xd9", found.scan) if found.kind == "jpeg" else content.rfind(b"IEND")
    return "is cut short" if end < 0 else ""


def decode_image(content: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """The bytes of an image file -> (H, W, 3) uint8 BGR, upright (or what other `flags` of cv2 say); None if broken.

    A file that was cut short counts as broken. 16-bit images keep their upper 8 bits, alpha is dropped.
    """
    if not content or (content.startswith((PNG_START, b"\xff\xd8")) and flaw(content)):
        return None
    try:
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # such as an image of more pixels than OpenCV allows
        return None
    return pixels


def decode_ids(content: bytes) -> np.ndarray | None:
    """The bytes of an index PNG -> (H, W) uint8 or uint16 label ids as stored; None if it can't be decoded.

    A palette's colours play no part: the ids are the indices. Anything but one channel comes as it is, (H, W, C).
    """
    found = read_header(content)
    if found and found.kind == "png" and found.colour == "palette":
        content = _with_grey_palette(content, found.bits)
    ids = decode_image(content, cv2.IMREAD_UNCHANGED)
    if ids is None or found is None or found.kind != "png":
        return ids
    if found.colour == "palette":
        return np.ascontiguousarray(ids[..., 0]) if ids.ndim == 3 else ids
    if found.colour == "grey" and found.bits < 8 and ids.ndim == 2:  # OpenCV scales 1, 2 or 4 bits to 0 ... 255
        return ids // np.uint8(255 // (2**found.bits - 1))
    return ids


def _with_grey_palette(content: bytes, bits: int) -> bytes:
    """The same PNG with colour i = (i, i, i) and no transparency, so that decoding gives the indices."""
    ramp = np.repeat(np.arange(2**bits, dtype=np.uint8), 3).tobytes()
    parts = [PNG_START]
    for kind, data in _png_chunks(content):
        if kind != b"tRNS":
            data = ramp if kind == b"PLTE" else data
            parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def encode_image(image: np.ndarray, suffix: str, quality: int = JPEG_QUALITY) -> bytes:
    """(H, W, 3) uint8 BGR or (H, W) uint8 -> the bytes of a ".jpg" or ".png" file."""
    done, data = cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else [])
    assert done
    return data.tobytes()


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 BGR, upright. Raises ValueError that says what is wrong with it."""
    content = _bytes(path)
    pixels = decode_image(content)
    if pixels is None:
        raise ValueError(f"{path} {flaw(content) or 'can not be decoded'}; expected a JPEG or PNG image")
    return pixels


def read_ids(path: Path) -> np.ndarray:
    """An index PNG as (H, W) label ids, see `decode_ids`. Raises ValueError that says what is wrong with it."""
    content = _bytes(path)
    if content.startswith(b"\xff\xd8"):
        raise ValueError(f"{path} is a JPEG file, which smears label ids; expected a PNG of label ids")
    ids = decode_ids(content)
    if ids is None:
        raise ValueError(f"{path} {flaw(content) or 'can not be decoded'}; expected a PNG of label ids")
    return ids


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; expected an image file")
    return path.read_bytes()
