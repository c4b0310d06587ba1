"""Features of the frozen tower, computed once and kept on disk for every epoch, arm, run and process.

    <cache_dir>/features/<key>/<name>.safetensors      one shard: `values` [tokens, hidden], `offsets` [n + 1],
                                                       `grids` [n, 3], `images` uint8 [n, 32], `crc` int64 [n]

`key` hashes what the features depend on, not where the base lies: every byte of the base's weights, its config, dtype and
attention, and processor settings. Images are named by the sha256 of their bytes and crop, clips by that of their bytes and of what
samples and resizes them. A shard appears under its name only
when it is complete (written aside, then renamed), so readers and other writers never meet half of one, and a kill leaves
nothing but a file nobody reads. Two writers may compute one image twice; both give the same bits. Every row is checked against
its CRC-32 (values, grid and name) on its first read; a shard that fails, or cannot be opened, is deleted and computed again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.host.files import values_hash, write_atomically
from lab.host.forks import FORK
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import Clip, Medium, on_tensors
from lab.training import eviction
from lab.training.feature_shards import Names, Shard, checksum, open_shard

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

STAGE = "features of the frozen tower (images)"
SHARD_IMAGES = 4096
"""Images in a shard at most."""
WORTH_A_PROCESS = 128
"""Images that a process more must have to itself."""
AT_ONCE = 64
"""Images that a process takes in turn."""
BATCH_PATCHES = 16384
"""Patches that go through the tower at once at most."""
CPU_PATCHES = 1024
"""The same on a CPU: as many as its caches hold the activations of."""
DECODED_PIXELS = 1 << 18
"""Pixels of pictures that are decoded and processed at once: one photograph, or many small pictures, whose calls take longer than they."""


class FeatureStore:
    """A memory-mapped store of post-projector features for one tower and one way of preprocessing."""

    def __init__(self, cache_dir: Path, vlm: Vlm, encoder: Encoder) -> None:
        base = {key: value for key, value in vlm.base.items() if key not in ("path", "revision")}
        attention = vlm.base_model.config._attn_implementation
        described: dict[str, Any] = {"base": base, "attn_implementation": attention, "processor": encoder.settings()}
        self.key = values_hash(described)
        self.folder = cache_dir / "features" / self.key
        weakref.finalize(self, os.close, eviction.use(self.folder))
        about = self.folder / "about.json"
        if not about.exists():
            write_atomically(about, json.dumps(described, indent=1, default=str))
        self.shards: list[Shard] = []
        self.refresh()

    def refresh(self) -> None:
        """Learn of shards that this or another process has added."""
        known = {shard.path for shard in self.shards}
        opened = [open_shard(path) for path in sorted(self.folder.glob("*.safetensors")) if path not in known]
        self.set_shards([*self.shards, *(shard for shard in opened if shard is not None)])

    def set_shards(self, shards: list[Shard]) -> None:
        """Answer from these shards."""
        import numpy as np

        self.shards = shards
        self.names = Names(np.concatenate([np.empty((0, 32), np.uint8), *(shard.images for shard in shards)]))
        self.ends = np.cumsum([len(shard.images) for shard in shards])

    def find(self, key: bytes) -> tuple[Shard, int] | None:
        """The shard that holds an image, and its place there."""
        position = self.names.find(key)
        if position is None:
            return None
        number = int(self.ends.searchsorted(position, side="right"))
        shard = self.shards[number]
        return shard, position - int(self.ends[number]) + len(shard.images)

    def sound(self, key: bytes) -> bool:
        """Whether an image's features are there and match their checksum; a damaged shard is dropped whole."""
        found = self.find(key)
        if found is None:
            return False
        shard, i = found
        if not shard.checked[i]:
            if checksum(shard.features(i), shard.grids[i].tolist(), key) != shard.crc[i]:
                log.warning("feature cache: %s fails its checksum; its images are computed again", shard.path)
                self.drop(shard)
                return False
            shard.checked[i] = True
        return True

    def drop(self, shard: Shard) -> None:
        """Forget and delete a shard."""
        shard.path.unlink(missing_ok=True)
        self.set_shards([one for one in self.shards if one is not shard])

    def get(self, key: bytes) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Features [tokens, hidden] of an image (a view on the mapped file) and its grid; `fill` must have seen it."""
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        shard, i = found
        t, h, w = shard.grids[i].tolist()
        return shard.features(i), (t, h, w)

    def sum_of(self, key: bytes) -> tuple[int, tuple[int, int, int]]:
        """Checksum of an image's features, grid and name, and the grid; `fill` must have seen it."""
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        shard, i = found
        t, h, w = shard.grids[i].tolist()
        return int(shard.crc[i]), (t, h, w)

    def fill(
        self, names: Names, read: Callable[[bytes], Medium], vlm: Vlm, encoder: Encoder, report: Report = silent,
        beside: Callable[[], None] | None = None,
    ) -> int:
        """Compute what is missing and return how many images that was. Each image is read and computed once, in batches.

        names: of the images wanted, by `image_key`, repeated or not. read: finds the picture of a name. beside: what this process does
        before it computes any, and others meanwhile.
        """  # fmt: skip
        self.refresh()
        for key in names.firsts():
            self.sound(key)  # may drop a damaged shard, and with it images that were found sound before
        missing = [key for key in names.firsts() if self.find(key) is None]
        if not missing:
            return 0
        number = num_workers(vlm, len(missing))
        if number == 1 and beside is not None:
            beside()
        left = missing if number == 1 else self.compute_parallel(missing, number, read, vlm, encoder, report, beside)
        self.compute_missing(left, read, vlm, encoder, report, FORK.Value("q", len(missing) - len(left)), len(missing))
        return len(missing)

    def compute_parallel(
        self, missing: Sequence[bytes], number: int, read: Callable[[bytes], Medium], vlm: Vlm, encoder: Encoder, report: Report,
        beside: Callable[[], None] | None,
    ) -> list[bytes]:
        """Have so many processes, this one among them, compute images; return what one that died has left undone."""  # fmt: skip
        count, taken, told = FORK.Value("q", 0), FORK.Value("q", 0), 0

        def tell(stage: str, done: int, total: int, note: str) -> None:
            nonlocal told
            told = done
            report(stage, done, total, note)

        keys = in_turn(missing, taken)
        helpers = [FORK.Process(target=self.compute_missing, args=(keys, read, vlm, encoder, silent, count)) for _ in range(number - 1)]
        for helper in helpers:
            helper.start()
        try:
            if beside is not None:
                beside()
            self.compute_missing(keys, read, vlm, encoder, tell, count, len(missing))
        except BaseException:
            for helper in helpers:
                helper.kill()
            raise
        finally:
            for helper in helpers:
                helper.join()
        self.refresh()
        left = [key for key in missing if self.find(key) is None]
        if left:
            codes = sorted({helper.exitcode or 0 for helper in helpers})
            log.warning("a process that computed features ended early (exit codes %s); its %d images are computed here", codes, len(left))
        elif told < len(missing):
            report(STAGE, len(missing), len(missing), "")
        return left

    def compute_missing(
        self,
        keys: Iterable[bytes],
        read: Callable[[bytes], Medium],
        vlm: Vlm,
        encoder: Encoder,
        report: Report,
        count: Any,
        total: int = 0,
    ) -> None:
        """Compute these images and write them. count: of images done by all who work on the `total`, shared by their processes."""
        shard: list[Loaded] = []
        most = min(BATCH_PATCHES, CPU_PATCHES) if vlm.device.type == "cpu" else BATCH_PATCHES
        for batch in batches(((key, read(key)) for key in keys), encoder, most):
            shard += compute(batch, vlm)
            with count.get_lock():
                count.value += len(batch)
            report(STAGE, count.value, total, "")
            if len(shard) >= SHARD_IMAGES:
                self.write(shard)
                shard = []
        if shard:
            self.write(shard)

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
            "crc": torch.tensor([checksum(feature, grid, key) for key, feature, grid in shard], dtype=torch.int64),
        }
        write_atomically(self.folder / f"{uuid.uuid4().hex}.safetensors", lambda temporary: save_file(tensors, temporary))
        self.refresh()


def in_turn(keys: Sequence[bytes], taken: Any) -> Iterator[bytes]:
    """Those of some keys that no other process has taken. taken: how many are, shared by all that work on them."""
    while True:
        with taken.get_lock():
            first, taken.value = taken.value, taken.value + AT_ONCE
        if first >= len(keys):
            return
        yield from keys[first : first + AT_ONCE]


def num_workers(vlm: Vlm, images: int) -> int:
    """How many processes share the images: one a core, forked, where the tower runs on the CPU with one thread.

    With several threads it has the cores already; CUDA does not survive a fork.
    """
    import torch

    alone = sys.platform != "linux" or vlm.device.type != "cpu" or torch.get_num_threads() > 1 or torch.cuda.is_initialized()
    return 1 if alone else max(1, min(len(os.sched_getaffinity(0)), images // WORTH_A_PROCESS))


Loaded = tuple[bytes, "torch.Tensor", tuple[int, int, int]]


def batches(pictures: Iterable[tuple[bytes, Medium]], encoder: Encoder, most: int) -> Iterator[list[Loaded]]:
    """Decode and process images; group them until so many patches are reached."""
    batch: list[Loaded] = []
    patches = 0
    for key, pixels, grid in processed(pictures, encoder):
        if batch and patches + math.prod(grid) > most:
            yield batch
            batch, patches = [], 0
        batch.append((key, pixels, grid))
        patches += math.prod(grid)
    if batch:
        yield batch


def processed(pictures: Iterable[tuple[bytes, Medium]], encoder: Encoder) -> Iterator[Loaded]:
    """Decode and process images, `DECODED_PIXELS` and more at once."""
    held: list[tuple[bytes, Medium]] = []
    area = 0
    for key, picture in pictures:
        held.append((key, picture))
        area += DECODED_PIXELS if isinstance(picture, Clip) or picture.size is None else math.prod(picture.size)
        if area >= DECODED_PIXELS:
            yield from together(held, encoder)
            held, area = [], 0
    yield from together(held, encoder)


def together(held: Sequence[tuple[bytes, Medium]], encoder: Encoder) -> Iterator[Loaded]:
    """Images by one call of their processor."""
    for (key, _), (pixels, grid) in zip(held, encoder.pictures([picture for _, picture in held]), strict=True):
        yield key, pixels, grid


def compute(batch: Sequence[Loaded], vlm: Vlm) -> list[Loaded]:
    """Run the frozen tower on a batch of processed images."""
    import torch

    pixels = vlm.family.architecture.stack([pixels for _, pixels, _ in batch], [grid for _, _, grid in batch])
    with torch.inference_mode():
        features = vlm.encode_images(on_tensors(lambda each: each.to(vlm.device), pixels))
    return [(key, feature.cpu().clone(), grid) for (key, _, grid), feature in zip(batch, features, strict=True)]
