"""Features of the frozen tower, computed once and kept on disk for every epoch, arm, run and process.

    <cache_dir>/features/<key>/<name>.safetensors      one shard: `values` [tokens, hidden], `offsets` [n + 1],
                                                       `grids` [n, 3], `images` uint8 [n, 32], `crc` int64 [n]

`key` hashes what the features depend on: base weights, processor settings, dtype. Images are named by the sha256 of their
bytes and crop. A shard appears under its name only when it is complete (written aside, then renamed), so readers and
other writers never meet half of one, and a kill leaves nothing but a file nobody reads. Two writers may compute one
image twice; both give the same bits. Every row is checked against its CRC-32 on its first read; a shard that
fails, or cannot be opened, is deleted and computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import DataError
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.progress import Report, silent
from lab.records import Picture
from lab.training import eviction

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SHARD_IMAGES = 4096
"""Images in a shard at most."""
BATCH_PATCHES = 16384
"""Patches that go through the tower at once at most."""


def image_key(picture: Picture) -> bytes:
    """32 bytes that name an image: sha256 of its encoded bytes and its crop. Raises `DataError` for an unreadable file."""
    data = picture.data
    if data is None:
        try:
            data = Path(picture.source).read_bytes()
        except OSError as error:
            raise DataError(f"{picture.source}: the image cannot be read ({error.strerror}).") from None
    return hashlib.sha256(json.dumps(picture.crop).encode() + data).digest()


@dataclass(frozen=True)
class Row:
    """Where one image's features are: shard, first and last token, patch grid (t, h, w), CRC-32."""

    shard: str
    start: int
    stop: int
    grid: tuple[int, int, int]
    crc: int


class FeatureStore:
    """A memory-mapped store of post-projector features for one tower and one way of preprocessing."""

    def __init__(self, cache_dir: Path, vlm: Vlm, encoder: Encoder) -> None:
        described: dict[str, Any] = {"base": vlm.base, "processor": encoder.settings()}
        self.key = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.folder = cache_dir / "features" / self.key
        weakref.finalize(self, os.close, eviction.use(self.folder))
        about = self.folder / "about.json"
        if not about.exists():
            temporary = self.folder / f".about-{uuid.uuid4().hex}"
            temporary.write_text(json.dumps(described, indent=1, default=str))
            os.replace(temporary, about)
        self.rows: dict[bytes, Row] = {}
        self.known: set[str] = set()
        self.values: dict[str, torch.Tensor] = {}
        self.checked: set[bytes] = set()
        self.refresh()

    def refresh(self) -> None:
        """Learn of shards that this or another process has added."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self.known:
                self.open(path)

    def open(self, path: Path) -> None:
        """Map one shard and index its images; a shard that cannot be read is deleted with a warning."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            offsets, grids = tensors["offsets"].tolist(), tensors["grids"].tolist()
            images, crcs = tensors["images"].numpy(), tensors["crc"].tolist()
            values = tensors["values"]
            if not len(offsets) - 1 == len(grids) == len(images) == len(crcs) or offsets[-1] != len(values):
                raise ValueError("its tables disagree in length")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning("feature cache: %s is damaged (%s); its images are computed again", path, error)
            path.unlink(missing_ok=True)
            return
        assert isinstance(values, torch.Tensor)
        self.known.add(path.name)
        self.values[path.name] = values
        for i, grid in enumerate(grids):
            row = Row(path.name, offsets[i], offsets[i + 1], tuple(grid), crcs[i])
            self.rows.setdefault(images[i].tobytes(), row)

    def sound(self, key: bytes) -> bool:
        """Whether an image's features are there and match their checksum; a damaged shard is dropped whole."""
        row = self.rows.get(key)
        if row is None:
            return False
        if key not in self.checked:
            if checksum(self.values[row.shard][row.start : row.stop]) != row.crc:
                log.warning("feature cache: %s fails its checksum; its images are computed again", self.folder / row.shard)
                self.drop(row.shard)
                return False
            self.checked.add(key)
        return True

    def drop(self, shard: str) -> None:
        """Forget and delete a shard."""
        (self.folder / shard).unlink(missing_ok=True)
        self.rows = {key: row for key, row in self.rows.items() if row.shard != shard}
        self.checked &= self.rows.keys()
        del self.values[shard]

    def get(self, key: bytes) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Features [tokens, hidden] of an image (a view on the mapped file) and its grid; `fill` must have seen it."""
        row = self.rows[key]
        return self.values[row.shard][row.start : row.stop], row.grid

    def fill(
        self, keys: Iterable[bytes], read: Callable[[bytes], Picture], vlm: Vlm, encoder: Encoder, report: Report = silent
    ) -> int:
        """Compute what is missing and return how many images that was. Each image is read and computed once, in batches.

        keys: `image_key` of every image wanted, repeated or not. read: finds the picture of a key.
        """
        self.refresh()
        wanted = dict.fromkeys(keys)
        for key in wanted:
            self.sound(key)  # may drop a damaged shard, and with it images that were found sound before
        missing = [key for key in wanted if key not in self.rows]
        if not missing:
            return 0
        shard: list[Loaded] = []
        done = 0
        for batch in batches(((key, read(key)) for key in missing), encoder):
            shard += compute(batch, vlm)
            done += len(batch)
            report("features of the frozen tower (images)", done, len(missing), "")
            if len(shard) >= SHARD_IMAGES:
                self.write(shard)
                shard = []
        if shard:
            self.write(shard)
        return len(missing)

    def write(self, shard: Sequence[Loaded]) -> None:
        """Write one shard aside, flush it, rename it into place and map it."""
        import numpy as np
        import torch
        from safetensors.torch import save_file

        values = torch.cat([feature for _, feature, _ in shard])
        lengths = [len(feature) for _, feature, _ in shard]
        tensors = {
            "values": values,
            "offsets": torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int64),
            "grids": torch.tensor([grid for _, _, grid in shard], dtype=torch.int64),
            "images": torch.from_numpy(np.frombuffer(b"".join(key for key, _, _ in shard), np.uint8).reshape(-1, 32).copy()),
            "crc": torch.tensor([checksum(feature) for _, feature, _ in shard], dtype=torch.int64),
        }
        name = f"{uuid.uuid4().hex}.safetensors"
        temporary = self.folder / f".{name}.part"
        save_file(tensors, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)
        self.open(self.folder / name)


def checksum(values: torch.Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    import torch

    return zlib.crc32(values.contiguous().view(torch.uint8).numpy())


Loaded = tuple[bytes, "torch.Tensor", tuple[int, int, int]]


def batches(pictures: Iterable[tuple[bytes, Picture]], encoder: Encoder) -> Iterator[list[Loaded]]:
    """Decode and process images; group them until `BATCH_PATCHES` patches are reached."""
    batch: list[Loaded] = []
    patches = 0
    for key, picture in pictures:
        pixels, grid = encoder.picture(picture)
        if batch and patches + len(pixels) > BATCH_PATCHES:
            yield batch
            batch, patches = [], 0
        batch.append((key, pixels, grid))
        patches += len(pixels)
    if batch:
        yield batch


def compute(batch: Sequence[Loaded], vlm: Vlm) -> list[Loaded]:
    """Run the frozen tower on a batch of processed images."""
    import torch

    grids = torch.tensor([grid for _, _, grid in batch], dtype=torch.int64, device=vlm.device)
    pixels = torch.cat([pixels for _, pixels, _ in batch]).to(vlm.device)
    with torch.inference_mode():
        features = vlm.encode_images(pixels, grids)
    return [(key, feature.cpu().clone(), grid) for (key, _, grid), feature in zip(batch, features, strict=True)]
