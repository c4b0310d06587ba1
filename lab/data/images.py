"""Encoded, untrusted images -> RGB, strictly; and the check of every file once, before any training.

What a file is, its content says and not its name: an NLVR2 `.png` may hold a JPEG. A file that is not exactly one
complete picture is refused with its name: no half-decoded rows (`lab.data.intact`), no first frame of an animation.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lab.config import OnBad
from lab.data.faults import BadRecord, raise_or_skip
from lab.data.files import open_regular, why_unreadable
from lab.data.intact import damage
from lab.data.verified import Decoded, Stamp, Verified
from lab.host.progress import bars, silent
from lab.records import Clip, Medium, Picture

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Tried in this order. Not among them: formats that Pillow hands to other programs (EPS)."""

MAX_PIXELS = 64_000_000
"""Largest width x height that is decoded (192 MB as RGB). Below Pillow's own warning at 89,478,485."""

MAX_BYTES = 256 * 1024 * 1024
"""Largest encoded file that is read."""

BATCH = 128
"""Images decoded between two commits of what was learned."""


class Tables(Protocol):
    """Where pictures live whose source is `table#row/column` and whose bytes are read when asked for."""

    def stamp(self, source: str) -> Stamp:
        """Return size [bytes] and mtime [ns] of the table that holds the picture."""
        ...

    def fetch(self, picture: Medium) -> Medium:
        """Return the picture with its encoded bytes."""
        ...


def decode(picture: Medium) -> Image.Image:
    """Decode one picture to RGB, 8 bits a channel, upright by its EXIF orientation, then cropped.

    Alpha is composited on white; 16-bit grey is scaled by 1/257; CMYK and palettes are converted. Of a JPEG that
    carries further pictures (MPO: previews, gain maps) the primary one is taken, as any JPEG reader does.
    Raises `BadRecord` (a `DataError`) naming the source for anything else than one complete picture within `MAX_PIXELS`.
    """
    if isinstance(picture, Clip):
        raise BadRecord(picture.source, "it is a clip, where a picture is needed")
    image = _whole(picture)
    if picture.crop is None:
        return image
    reason = _crop_reason(picture.crop, image.size)
    if reason:
        raise BadRecord(picture.source, reason)
    return image.crop(picture.crop)


PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Without any of these a PNG has no orientation, for which Pillow would decode it."""


def orientation(picture: Picture) -> int:
    """By its EXIF tag how `decode` turns a picture that it takes, 1 (not at all) to 8; of a file little more than the head is read."""
    with open_regular(picture.source) if picture.data is None else io.BytesIO(picture.data) as file:
        if file.read(4) == b"\x89PNG":
            rest = file.read()
            if not any(mark in rest for mark in PNG_EXIF):
                return 1
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height of what `decode` gives, without decoding where they are known. Raises `BadRecord`."""
    if picture.crop is not None and picture.size is not None and not _crop_reason(picture.crop, picture.size):
        left, upper, right, lower = picture.crop
        return right - left, lower - upper
    return picture.size if picture.crop is None and picture.size is not None else decode(picture).size


def verify(
    pictures: Iterable[Medium],
    cache_dir: Path,
    on_bad: OnBad,
    progress: bool = True,
    tables: Tables | None = None,
) -> list[tuple[Medium, str]]:
    """Look at every picture as `outcomes` does; return the bad ones with the reason.

    Under `on_bad=fail` bad pictures raise one `DataError` that names the first few and counts all.
    """
    pictures = list(pictures)
    found = outcomes(pictures, cache_dir, progress, tables)
    bad = [(picture, reason) for picture in pictures if (reason := why_bad(picture, found[picture.source]))]
    if on_bad is OnBad.fail:
        raise_or_skip([BadRecord(picture.source, reason) for picture, reason in bad], on_bad)
    return bad


def outcomes(
    pictures: Iterable[Medium], cache_dir: Path, progress: bool = True, tables: Tables | None = None
) -> dict[str, Decoded | str]:
    """Decode every distinct source once; return what each gave, or why it is bad.

    Good ones are remembered in `cache_dir` by (absolute path, size, mtime_ns) and the rules they were decoded by, so
    that a later call only stats them; bad ones are looked at again. tables: where the bytes of `table#row/column` come from.
    """
    found: dict[str, Decoded | str] = {}
    stamps: dict[str, Stamp] = {}
    first: dict[str, Medium] = {}
    for picture in pictures:
        first.setdefault(picture.source, picture)
    for source, picture in first.items():
        try:
            stamps[source] = tables.stamp(source) if tables else stamp(picture)
        except BadRecord as fault:
            found[source] = fault.reason
    with Verified(Path(cache_dir) / "verified_images.sqlite", _rules()) as verified:
        keys = {source: source if tables else os.path.abspath(source) for source in stamps}
        known = verified.outcomes({keys[source]: stamp for source, stamp in stamps.items()})
        found |= {source: known[key] for source, key in keys.items() if key in known}
        new = [first[source] for source in first if source in stamps and source not in found]
        log.info("images: %d sources, %d to decode for the first time", len(first), len(new))
        read = tables.fetch if tables else _same
        for source, outcome in _decoded(new, read, progress):
            found[source] = outcome
            if not isinstance(outcome, str):
                verified.add(keys[source], stamps[source], outcome)
    return found


def _decoded(
    pictures: Sequence[Medium], read: Callable[[Medium], Medium], progress: bool
) -> Iterator[tuple[str, Decoded | str]]:
    """Yield (source, what the upright image is or why it is bad). Pillow decodes without the interpreter lock."""

    def outcome(picture: Medium) -> tuple[str, Decoded | str]:
        try:
            return picture.source, _looked_at(read(picture))
        except BadRecord as fault:
            return picture.source, fault.reason

    report = bars() if progress and pictures else silent
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(pictures), BATCH):
            batch = pictures[start : start + BATCH]
            yield from pool.map(outcome, batch)
            report("verifying images", start + len(batch), len(pictures), "")


def _looked_at(medium: Medium) -> Decoded:
    """What a picture or a clip is, all of it decoded."""
    if isinstance(medium, Picture):
        return Decoded.of(_whole(medium))
    from lab.data import video  # whose listed frames are pictures

    held = video.footage(medium)
    return Decoded(held.size, video.digest(medium).hex()[:32], held.frames, held.fps)


def _same(picture: Medium) -> Medium:
    return picture


def _rules() -> str:
    """What a verdict depends on besides the file."""
    return f"3 pillow={PIL.__version__} pixels={MAX_PIXELS} bytes={MAX_BYTES}"


def why_bad(picture: Medium, outcome: Decoded | str) -> str | None:
    """Why a picture cannot be used, by the outcome of its source; None if it can."""
    if isinstance(outcome, str):
        return outcome
    crop = picture.crop if isinstance(picture, Picture) else None
    return None if crop is None else _crop_reason(crop, outcome.size)


def _crop_reason(crop: tuple[int, int, int, int], size: tuple[int, int]) -> str | None:
    left, upper, right, lower = crop
    if 0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]:
        return None
    return f"the crop (left, upper, right, lower) = {crop} does not lie inside its {size[0]} x {size[1]} pixels"


def stamp(picture: Medium) -> Stamp:
    """Stat the file, or all of a clip's listed frames; bytes in memory are stamped by length and a hash instead."""
    if picture.data is not None:
        return Stamp.of_bytes(picture.data)
    frames = picture.frames if isinstance(picture, Clip) else ()
    stamps = []
    for source in frames or (picture.source,):
        try:
            found = os.stat(source)
        except (OSError, ValueError) as error:
            raise BadRecord(source, why_unreadable(error)) from None
        stamps.append(Stamp(found.st_size, found.st_mtime_ns))
    return Stamp.of_bytes(repr((frames, stamps)).encode()) if frames else stamps[0]


def _encoded(picture: Picture) -> bytes:
    """Read the encoded bytes of one picture; a pipe or a device is refused before it can block."""
    if picture.data is not None:
        data = picture.data
    else:
        try:
            with open_regular(picture.source) as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise BadRecord(picture.source, why_unreadable(error)) from None
    if not data:
        raise BadRecord(picture.source, "the image is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadRecord(picture.source, f"the encoded image has more than {MAX_BYTES} bytes, the most that is read")
    return data


def _whole(picture: Picture) -> Image.Image:
    """Decode without the crop."""
    data = _encoded(picture)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse(image, data, picture.source)
            image.load()
            reason = damage(image, data)
            if reason:
                raise BadRecord(picture.source, f"the image cannot be decoded ({reason})")
            return _rgb(ImageOps.exif_transpose(image), picture.source)
    except BadRecord:
        raise
    except UnidentifiedImageError:
        reason = f"its content is none of {', '.join(FORMATS)}; it begins with {data[:8]!r}"
        raise BadRecord(picture.source, reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"it has more pixels than the {MAX_PIXELS} that are decoded (lab.data.images.MAX_PIXELS)"
        raise BadRecord(picture.source, reason) from None
    except Exception as error:  # Pillow raises a dozen unrelated kinds on hostile bytes: all mean the same here
        reason = f"the image cannot be decoded ({type(error).__name__}: {str(error)[:200]})"
        raise BadRecord(picture.source, reason) from error


def _refuse(image: Image.Image, data: bytes, source: str) -> None:
    """Refuse by the header alone, before any pixel is decoded."""
    width, height = image.size
    if width < 1 or height < 1:
        raise BadRecord(source, f"the image has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        limit = f"more than the {MAX_PIXELS} pixels that are decoded (lab.data.images.MAX_PIXELS)"
        raise BadRecord(source, f"the image is {width} x {height}, {limit}")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadRecord(source, "the file holds more than one frame; a still image is needed")


def _rgb(image: Image.Image, source: str) -> Image.Image:
    """Convert any mode to RGB."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        raise BadRecord(source, f"its pixels are 32-bit numbers (mode {image.mode}): which value is white is not defined")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        straight = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if straight.getchannel("A").getextrema() == (255, 255):  # opaque: the same pixels, a third faster
            return straight.convert("RGB")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey: round(value / 257), so that 65535 is white (Pillow before 12 clips at 255 instead)."""
    value_HW = np.asarray(image).astype(np.uint32)
    grey_HW = ((value_HW + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey_HW[value_HW == clear] = 255
    return Image.fromarray(grey_HW).convert("RGB")
