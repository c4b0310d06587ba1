"""Near-duplicate pictures: a perceptual hash of what is where (pHash, `imagehash`), and the colour of what stands before the ground.

pHash alone sees brightness: a red and a blue shoe on white have one hash. So two pictures are near-duplicates only where both are near.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from lab.curation.config import Selection
from lab.data import images
from lab.host.progress import Report
from lab.records import Picture

SIDE = 32
"""Pixels of the thumbnail whose colours are looked at."""
PLAIN = 5.0
"""CIE76 distance: a picture that nowhere differs more from its ground is all ground."""
ROWS = 4096
"""Fingerprints that are compared with all others at once."""
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
"""From linear sRGB, D65 (IEC 61966-2-1)."""
WHITE = np.array([0.95047, 1.0, 1.08883])


class Likeness(NamedTuple):
    """structure: uint64 [n], a pHash each. colour: float32 [n, 3], the mean CIE L*a*b* before the ground."""

    structure: np.ndarray
    colour: np.ndarray


def of(pictures: Sequence[Picture], tables: images.Tables | None, report: Report) -> Likeness:
    """The fingerprints of pictures that decode."""

    def one(picture: Picture) -> tuple[int, np.ndarray]:
        return fingerprint(images.decode(tables.fetch(picture) if tables else picture))

    found: list[tuple[int, np.ndarray]] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(pictures), images.BATCH):
            found += pool.map(one, pictures[start : start + images.BATCH])
            report("comparing pictures", len(found), len(pictures), "")
    structure = np.array([bits for bits, _ in found], dtype=np.uint64)
    return Likeness(structure, np.array([colour for _, colour in found], dtype=np.float32).reshape(-1, 3))


def fingerprint(image: Image.Image) -> tuple[int, np.ndarray]:
    """64 bits of pHash, and the mean colour [3] in CIE L*a*b*, each place weighted by its distance from the colour of the border."""
    import imagehash

    bits = int(str(imagehash.phash(image)), 16)
    lab_HWC = to_lab(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)))
    border = np.concatenate([lab_HWC[0], lab_HWC[-1], lab_HWC[:, 0], lab_HWC[:, -1]])
    weight_HW = np.linalg.norm(lab_HWC - np.median(border, axis=0), axis=-1)
    if weight_HW.max() <= PLAIN:
        return bits, lab_HWC.mean(axis=(0, 1))
    return bits, (lab_HWC * weight_HW[..., None]).sum(axis=(0, 1)) / weight_HW.sum()


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB of 8 bits, channels last -> CIE L*a*b* (D65)."""
    share = rgb / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def pairs(left: Likeness, right: Likeness, rule: Selection) -> Iterator[tuple[int, int]]:
    """Yield, for each of `left` that has a near-duplicate in `right`, its place and that of the first one."""
    for start in range(0, len(left.structure) if len(right.structure) else 0, ROWS):
        near = np.bitwise_count(left.structure[start : start + ROWS, None] ^ right.structure[None]) <= rule.near_structure
        rows, columns = np.nonzero(near)
        distance = np.linalg.norm(left.colour[start + rows] - right.colour[columns], axis=1)
        seen: set[int] = set()
        for row, column in zip(rows[distance <= rule.near_colour], columns[distance <= rule.near_colour], strict=True):
            if row not in seen:
                seen.add(row)
                yield start + int(row), int(column)
