"""Encoded, untrusted bytes become one upright RGB image, or a refusal that names the file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.config import OnBad
from lab.data import images
from lab.data.images import decode, verify
from lab.errors import DataError
from lab.records import Picture

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(NOISE).convert(mode)


def pixels(data: bytes) -> np.ndarray:
    image = decode(Picture("t#0/png", data))
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels in a few bytes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_plain_modes_keep_their_colours(mode: str) -> None:
    image = noise(mode)
    assert np.array_equal(pixels(encode(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats_give_the_same_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(pixels(encode(noise(), kind, **options)), NOISE)


def test_alpha_lies_on_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 100, 0, 255), (200, 100, 0, 0), (0, 0, 0, 128)])
    opaque, clear, half = pixels(encode(rgba))[0].tolist()
    assert opaque == [200, 100, 0]
    assert clear == [255, 255, 255]
    assert half == [127, 127, 127]


def test_grey_with_alpha_and_palette_with_alpha_lie_on_white() -> None:
    grey = Image.new("LA", (2, 1))
    grey.putdata([(10, 255), (10, 0)])
    assert pixels(encode(grey))[0].tolist() == [[10, 10, 10], [255, 255, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    assert pixels(encode(palette, transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_opaque_alpha_changes_nothing() -> None:
    assert np.array_equal(pixels(encode(noise("RGBA"))), NOISE)


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(pixels(encode(image, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert pixels(encode(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = pixels(encode(noise(), "PNG", exif=exif))
    assert np.array_equal(turned, np.rot90(NOISE, -1))


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(noise(), "JPEG"))
    assert decode(Picture(str(path))).size == (60, 40)


def test_of_a_jpeg_with_previews_the_primary_picture_is_taken() -> None:
    data = encode(noise(), "MPO", save_all=True, append_images=[Image.new("RGB", (6, 4))])
    assert decode(Picture("mpo", data)).size == (60, 40)


def test_crop_lies_inside_and_counts_upright_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(noise(), "PNG", exif=exif)  # upright: 40 wide, 60 high
    assert decode(Picture("x", data, crop=(0, 50, 40, 60))).size == (40, 10)
    for crop in [(0, 0, 41, 10), (-1, 0, 4, 4), (4, 4, 4, 8), (0, 0, 4, 61)]:
        with pytest.raises(DataError, match=r"crop .* does not lie inside its 40 x 60"):
            decode(Picture("x", data, crop=crop))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encode(noise(), kind)
    with pytest.raises(DataError, match=r"^cut: "):
        decode(Picture("cut", data[: max(1, int(len(data) * share))]))


def test_png_without_its_end_is_refused() -> None:
    with pytest.raises(DataError, match="truncated PNG"):
        decode(Picture("cut", encode(noise())[:-12]))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_are_refused(kind: str) -> None:
    data = encode(
        noise(), kind, save_all=True, append_images=[Image.new("RGB", (60, 40)), Image.new("RGB", (60, 40), "red")]
    )
    with pytest.raises(DataError, match="film: the file holds more than one frame"):
        decode(Picture("film", data))


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (30000, 30000), (100000, 100000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_any_pixel(width: int, height: int) -> None:
    with pytest.raises(DataError, match=r"^bomb: .*pixels"):
        decode(Picture("bomb", png_header(width, height)))


def test_pixel_limit_is_a_constant_that_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise())
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40)
    decode(Picture("x", data))
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40 - 1)
    with pytest.raises(DataError, match="60 x 40, more than the 2399 pixels"):
        decode(Picture("x", data))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        decode(Picture("x", data))


@pytest.mark.parametrize(
    "data", [b"", b"x", b"not an image at all", png_header(0, 5), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^name: "):
        decode(Picture("name", data))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_numbers_have_no_white(mode: str) -> None:
    with pytest.raises(DataError, match="32-bit numbers"):
        decode(Picture("x", encode(noise("L").convert(mode), "TIFF")))


def test_pipes_folders_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, match in [
        ("pipe.png", "not a regular file"),
        ("absent.png", "missing"),
        (".", "regular file|cannot be read"),
    ]:
        with pytest.raises(DataError, match=match):
            decode(Picture(str(tmp_path / name)))
    with pytest.raises(DataError):
        decode(Picture("nul\0byte"))


def write(folder: Path, count: int) -> list[Picture]:
    for k in range(count):
        (folder / f"{k}.png").write_bytes(encode(Image.new("RGB", (8 + k, 8), (k, 0, 0))))
    return [Picture(str(folder / f"{k}.png")) for k in range(count)]


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every source that is decoded."""
    decoded: list[str] = []
    whole = images._whole
    monkeypatch.setattr(
        images, "_whole", lambda picture: (decoded.append(Path(picture.source).name), whole(picture))[1]
    )
    return decoded


def test_verify_decodes_each_file_once_and_later_runs_only_stat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write(tmp_path, 5)
    crops = [Picture(pictures[0].source, crop=(0, 0, 4, 4))] * 3
    decoded = counting(monkeypatch)
    assert verify([*pictures, *crops], tmp_path / "cache", OnBad.fail) == []
    assert sorted(decoded) == [f"{k}.png" for k in range(5)]
    decoded.clear()
    assert verify([*pictures, *crops], tmp_path / "cache", OnBad.fail) == []
    assert decoded == []
    Path(pictures[2].source).write_bytes(encode(Image.new("RGB", (9, 9), "blue")))
    assert verify(pictures, tmp_path / "cache", OnBad.fail) == []
    assert decoded == ["2.png"]


def test_verify_checks_crops_also_from_memory(tmp_path: Path) -> None:
    (picture,) = write(tmp_path, 1)
    bad = Picture(picture.source, crop=(0, 0, 9, 9))
    for _ in range(2):
        assert [(found, "crop" in reason) for found, reason in verify([picture, bad], tmp_path, OnBad.skip)] == [
            (bad, True)
        ]


def test_verify_does_not_trust_verdicts_under_other_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(tmp_path, 2)
    verify(pictures, tmp_path, OnBad.fail)
    monkeypatch.setattr(images, "MAX_PIXELS", 70)
    assert [picture for picture, _ in verify(pictures, tmp_path, OnBad.skip)] == [pictures[1]]


def test_verify_counts_all_bad_files_in_one_error(tmp_path: Path) -> None:
    pictures = write(tmp_path, 12)
    for picture in pictures[:6]:
        Path(picture.source).write_bytes(b"broken")
    Path(pictures[6].source).unlink()
    with pytest.raises(DataError, match=r"(?s)bad records and images: 7\..*0\.png.*and 2 more"):
        verify(pictures, tmp_path / "cache", OnBad.fail)
    bad = verify(pictures, tmp_path / "cache", OnBad.skip)
    assert [picture for picture, _ in bad] == pictures[:7]
    assert bad[6][1] == "the file is missing"


def test_verify_reads_bytes_in_memory_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Picture("t#0/png", encode(noise()))
    decoded = counting(monkeypatch)
    verify([good], tmp_path, OnBad.fail)
    verify([good], tmp_path, OnBad.fail)
    assert len(decoded) == 1
    assert len(verify([Picture("t#0/png", good.data[:-20])], tmp_path, OnBad.skip)) == 1


def test_an_interrupted_verification_keeps_what_it_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(tmp_path, 4)
    monkeypatch.setattr(images, "BATCH", 2)
    whole = images._whole

    def stop(picture: Picture) -> Image.Image:
        if picture == pictures[3]:
            raise KeyboardInterrupt
        return whole(picture)

    monkeypatch.setattr(images, "_whole", stop)
    with pytest.raises(KeyboardInterrupt):
        verify(pictures, tmp_path, OnBad.fail)
    monkeypatch.setattr(images, "_whole", whole)
    decoded = counting(monkeypatch)
    verify(pictures, tmp_path, OnBad.fail)
    assert "0.png" not in decoded
    assert "3.png" in decoded


def test_a_broken_cache_is_set_aside_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = write(tmp_path, 2)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "verified_images.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    assert verify(pictures, cache, OnBad.fail) == []
    assert "not readable" in caplog.text
    assert list(cache.glob("*.unreadable.*"))


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"tracking\.cache_dir"):
        verify(write(tmp_path, 1), tmp_path / "file", OnBad.fail)
