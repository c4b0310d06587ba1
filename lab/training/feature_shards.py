"""One file of the feature cache (`lab.training.features`): mapped, checked by checksum, searched by the names of images."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.data.video import digest
from lab.errors import DataError
from lab.records import Clip, Medium

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)


def image_key(picture: Medium, video: Mapping[str, Any] | None = None) -> bytes:
    """32 bytes that name an image: sha256 of its encoded bytes and its crop; of a clip's and of the rule that samples it.

    video: what the video processor does. Raises `DataError` for an unreadable file.
    """
    if isinstance(picture, Clip):
        return hashlib.sha256(json.dumps([asdict(picture.sampling), video]).encode() + digest(picture)).digest()
    data = picture.data
    if data is None:
        try:
            data = Path(picture.source).read_bytes()
        except OSError as error:
            raise DataError(f"{picture.source}: the image cannot be read ({error.strerror}).") from None
    return hashlib.sha256(json.dumps(picture.crop).encode() + data).digest()


class Names:
    """Where a 32-byte name stands among many, by bisection over its first 8 bytes: 12 bytes a name beside the names."""

    def __init__(self, names: np.ndarray) -> None:
        """names: uint8 [n, 32], repeated or not."""
        import numpy as np

        heads = np.ascontiguousarray(names[:, :8]).view(">u8")[:, 0].astype(np.uint64)
        self.names = names
        self.order = heads.argsort(kind="stable").astype(np.int32)
        self.heads = heads[self.order]

    def find(self, name: bytes) -> int | None:
        """The first position of a name, or None."""
        head = int.from_bytes(name[:8], "big")
        at = int(self.heads.searchsorted(self.heads.dtype.type(head)))
        while at < len(self.heads) and int(self.heads[at]) == head:
            if self.names[self.order[at]].tobytes() == name:
                return int(self.order[at])
            at += 1
        return None

    def firsts(self) -> Iterator[bytes]:
        """Each name once, in the order of first positions."""
        import numpy as np

        ordered = self.names[self.order]
        new = np.ones(len(ordered), dtype=bool)
        new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        for position in np.sort(self.order[new]):
            yield self.names[position].tobytes()


@dataclass(frozen=True)
class Shard:
    """One mapped file. values: [tokens, hidden]; offsets int64 [n + 1]; grids int64 [n, 3]; images uint8 [n, 32]; crc int64 [n].

    checked: which of its images were found to match their CRC-32, bool [n].
    """

    path: Path
    values: torch.Tensor
    offsets: np.ndarray
    grids: np.ndarray
    images: np.ndarray
    crc: np.ndarray
    checked: np.ndarray

    def features(self, i: int) -> torch.Tensor:
        """Of its i-th image, [tokens, hidden], a view on the mapped file."""
        return self.values[int(self.offsets[i]) : int(self.offsets[i + 1])]


def open_shard(path: Path) -> Shard | None:
    """Map one shard; one that cannot be read is deleted with a warning."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        values = tensors["values"]
        offsets, grids, images, crc = (tensors[name].numpy() for name in ("offsets", "grids", "images", "crc"))
        agree = len(offsets) - 1 == len(grids) == len(images) == len(crc) and offsets[-1] == len(values)
        if not agree or images.shape[1:] != (32,) or images.dtype != np.uint8:
            raise ValueError("its tables disagree")
    except (SafetensorError, OSError, KeyError, ValueError, IndexError) as error:
        log.warning("feature cache: %s is damaged (%s); its images are computed again", path, error)
        path.unlink(missing_ok=True)
        return None
    return Shard(path, values, offsets, grids, images, crc, np.zeros(len(images), dtype=bool))


def checksum(values: torch.Tensor, grid: Sequence[int], key: bytes) -> int:
    """CRC-32 of an image's features, its grid and its name."""
    import torch

    return zlib.crc32(values.contiguous().view(torch.uint8).numpy().data, zlib.crc32(json.dumps(list(grid)).encode() + key))
