"""Damage that Pillow decodes without a word: the rest of the picture comes out grey, black or as noise.

    PNG     the CRC-32 of every chunk, to the end chunk (PNG 1.2, 3.4)
    JPEG    decoded again by libjpeg-turbo, which tells a warning from silence: scans that end too early or too late, bad codes,
            restart markers out of order. At an eighth of the size: every code is read, few pixels are made. And a stretch of
            zeros, as a file system leaves it, that happens to be codes, where none of them ends a block (T.81, F.1.2.2)
    WebP    has no checksum, but its compressed data are needed to the last byte (RFC 9649): with the end of them taken away
            a whole picture cannot be decoded, and one that still can has been read to its end without them
    TIFF    the JPEGs in it, as JPEGs; other compressions as libtiff sees it

What no reader can tell stays untold: other colours in an uncompressed picture, a changed bit that leaves every code a code, and
JPEGs whose sampling factors TurboJPEG has no name for (such as 3x1; cameras and editors write none of them).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

JPEG_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
"""How libjpeg's warnings begin that speak of data; the others are about headers that it can do without."""

ZEROS = re.compile(rb"\0{64,}")
PROGRESSIVE, HUFFMAN_TABLE, START_OF_SCAN = 0xC2, 0xC4, 0xDA

SPARE = 16
"""Bytes taken away from compressed WebP data: more than an arithmetic coder's last write, an even number as chunks are padded."""

TIFF_JPEG = 7
TIFF_TABLES, TIFF_STRIPS, TIFF_TILES = 347, (273, 279), (324, 325)
"""Tags: tables that all JPEGs of a file share, and offsets with byte counts of its strips or tiles."""


def damage(image: Image.Image, data: bytes) -> str | None:
    """Say what is damaged in encoded `data` that Pillow opened as `image` and decoded, or return None."""
    match image.format:
        case "PNG":
            return png_damage(data)
        case "JPEG" | "MPO":
            return jpeg_damage(data, image.mode)
        case "WEBP":
            return webp_damage(data)
        case "TIFF":
            return tiff_damage(image, data)
    return None


def png_damage(data: bytes) -> str | None:
    """Check every chunk's checksum, by Pillow's own `verify`."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        try:
            image.verify()
        except Exception as error:  # SyntaxError for a checksum, OSError and struct.error for an end that is not there
            return f"truncated PNG or a wrong checksum in it: {str(error)[:200]}"
    return None


def jpeg_damage(data: bytes, mode: str) -> str | None:
    """Read every code of a JPEG. mode: Pillow's, of which only CMYK matters."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, colorspace="CMYK" if mode == "CMYK" else "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if str(error).startswith(JPEG_DAMAGE):
            return str(error)
    return "a stretch of its data is zeros" if zeroed(data) else None


def zeroed(data: bytes) -> bool:
    """Whether a sequential JPEG holds zeros for data: a run that its encoder wrote would be blocks that end where they begin."""
    at, end_of_block = 2, False
    while at + 4 <= len(data) and data[at + 1] != START_OF_SCAN:
        kind, stop = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == PROGRESSIVE:
            return False
        table = at + 4
        while kind == HUFFMAN_TABLE and table + 17 < stop <= len(data):
            end_of_block |= data[table] >= 16 and data[table + 17] == 0  # the shortest code, all zeros, of an AC table
            table += 17 + sum(data[table + 1 : table + 17])
        at = stop
    return not end_of_block and ZEROS.search(data, at, max(at, data.find(b"\xff\xd9", at))) is not None


def webp_damage(data: bytes) -> str | None:
    """Take the end of each part of compressed data away in turn; a picture that still decodes was not whole."""
    for start, size in webp_parts(data):
        if size < 4 * SPARE:
            continue
        cut = bytearray(data[: start + size - SPARE] + data[start + size :])
        cut[4:8] = (int.from_bytes(data[4:8], "little") - SPARE).to_bytes(4, "little")
        cut[start - 4 : start] = (size - SPARE).to_bytes(4, "little")
        try:
            with Image.open(io.BytesIO(cut), formats=("WEBP",)) as image:
                image.load()
        except Exception:  # as it must be
            continue
        return "damaged WebP: its pixels are complete before its data are"
    return None


def webp_parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and size in bytes of each chunk of compressed colours or alpha."""
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in (b"VP8 ", b"VP8L", b"ALPH"):
            yield at + 8, size
        at += 8 + size + size % 2


def tiff_damage(image: Image.Image, data: bytes) -> str | None:
    """Check each strip or tile that is a JPEG."""
    assert isinstance(image, TiffImageFile)
    tags = image.tag_v2
    if tags.get(259) != TIFF_JPEG:
        return None
    tables = bytes(tags.get(TIFF_TABLES, b""))
    for offsets, counts in (TIFF_STRIPS, TIFF_TILES):
        for start, size in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            part = data[start : start + size]
            reason = jpeg_damage(tables[:-2] + part[2:] if tables else part, image.mode)
            if reason:
                return reason
    return None
