"""Damage that decoders pass over is told in every format that carries its pixels in codes; whole pictures of every kind are read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.config import OnBad
from lab.data.images import decode, verify
from lab.errors import DataError
from lab.records import Picture


def drawn(kind: str, width: int, height: int) -> Image.Image:
    """A picture that is hard to compress, or easy, or one colour."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(0)
    match kind:
        case "noise":
            values = rng.integers(0, 255, (height, width, 3))
        case "smooth":
            values = np.stack([127 + 100 * np.sin(x / 17), y, (x + y) / 2], -1) + rng.integers(-3, 3, (height, width, 3))
        case _:
            values = np.full((height, width, 3), (200, 30, 90))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def see_through(image: Image.Image) -> Image.Image:
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    return clear


WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {"quality": 90}),
    "jpeg progressive": ("RGB", "JPEG", {"progressive": True, "exif": turned()}),
    "jpeg optimised": ("RGB", "JPEG", {"optimize": True, "comment": b"by hand"}),
    "jpeg restarts": ("RGB", "JPEG", {"restart_marker_blocks": 3}),
    "jpeg 4:4:4": ("RGB", "JPEG", {"subsampling": 0}),
    "jpeg 4:2:2": ("RGB", "JPEG", {"subsampling": 1, "icc_profile": b"x" * 333}),
    "jpeg grey": ("L", "JPEG", {}),
    "jpeg cmyk": ("CMYK", "JPEG", {}),
    "jpeg cmyk progressive": ("CMYK", "JPEG", {"progressive": True}),
    "png": ("RGB", "PNG", {"exif": turned()}),
    "png palette": ("P", "PNG", {}),
    "png clear": ("RGBA", "PNG", {}),
    "gif": ("P", "GIF", {}),
    "webp": ("RGB", "WEBP", {}),
    "webp best": ("RGB", "WEBP", {"quality": 100, "method": 6, "exif": turned(), "icc_profile": b"x" * 333}),
    "webp clear": ("RGBA", "WEBP", {}),
    "webp lossless": ("RGB", "WEBP", {"lossless": True}),
    "webp lossless clear": ("RGBA", "WEBP", {"lossless": True, "exact": True}),
    "tiff lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("RGB", "TIFF", {"compression": "jpeg"}),
}
"""Mode, format and options of encodings whose pixels are codes."""
PLAIN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bmp": ("RGB", "BMP", {}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff packbits": ("RGB", "TIFF", {"compression": "packbits"}),
    "tiff fax": ("1", "TIFF", {"compression": "group4"}),
}
"""Those in which other pixels are as good as these."""


def made(way: str, kind: str = "noise", size: tuple[int, int] = (97, 61)) -> bytes:
    mode, name, options = (WAYS | PLAIN)[way]
    image = drawn(kind, *size)
    return encoded(see_through(image) if mode == "RGBA" else image.convert(mode), name, **options)


@pytest.mark.parametrize("way", [*WAYS, *PLAIN])
def test_whole_pictures_of_every_kind_and_size_are_read(way: str) -> None:
    """Odd sizes, one pixel, one colour; bytes behind the end are no damage."""
    for kind in ("noise", "smooth", "flat"):
        for size in ((97, 61), (1, 1), (8, 8), (17, 3), (2, 130)):
            data = made(way, kind, size)
            image = decode(Picture(f"{way} {kind} {size}", data))
            assert image.size in (size, size[::-1])
            if not way.startswith("tiff"):  # a TIFF has no end: its directory may lie anywhere
                assert decode(Picture("behind", data + b"\0more\xff\xd9" * 9)).tobytes() == image.tobytes()


def ways_to_harm(data: bytes) -> dict[str, bytes]:
    """The file keeps its length, or its end, or both."""
    half, quarter, end = len(data) // 2, len(data) // 4, data[-12:]
    return {
        "second half zeros": data[:half] + bytes(len(data) - half),
        "second half zeros before the end": data[:half] + bytes(len(data) - half - 12) + end,
        "cut, with the end": data[:half] + end,
        "cut at nine tenths, with the end": data[: len(data) * 9 // 10] + end,
        "a quarter missing": data[:half] + data[half + quarter :],
        "a quarter zeros": data[:half] + bytes(quarter) + data[half + quarter :],
        "cut": data[:half],
    }


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("way", WAYS)
def test_damage_is_told_whatever_the_length_and_the_end_say(way: str, kind: str) -> None:
    data = made(way, kind, (160, 120))
    accepted = []
    for harm, damaged in ways_to_harm(data).items():
        try:
            decode(Picture(harm, damaged))
        except DataError as error:
            assert str(error).startswith(f"{harm}: ")
        else:
            accepted.append(harm)
    assert not accepted


def test_damaged_pictures_are_counted_and_named(tmp_path: Path) -> None:
    pictures = []
    for way in ("jpeg", "jpeg progressive", "webp", "webp lossless", "png", "gif"):
        for harm, data in ways_to_harm(made(way)).items():
            path = tmp_path / f"{way} {harm}"
            path.write_bytes(data)
            pictures.append(Picture(str(path)))
    (tmp_path / "good").write_bytes(made("jpeg"))
    bad = verify([*pictures, Picture(str(tmp_path / "good"))], tmp_path / "cache", OnBad.skip)
    assert [picture for picture, _ in bad] == pictures
    with pytest.raises(DataError, match=f"bad records and images: {len(pictures)}"):
        verify(pictures, tmp_path / "cache", OnBad.fail)


def test_jpegs_that_only_speak_oddly_of_themselves_are_read() -> None:
    """Header remarks of libjpeg's are not damage: an unknown version, an unknown colour transform."""
    data = made("jpeg")
    assert data[6:10] == b"JFIF"
    assert decode(Picture("version", data[:11] + b"\x09" + data[12:])).size == (97, 61)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x02"
    assert decode(Picture("transform", data[:2] + adobe + data[2 + 18 :])).size == (97, 61)
