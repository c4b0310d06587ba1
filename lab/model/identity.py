"""What stands for a checkpoint: a hash of every byte of its weights, and one of its config.

A file is hashed once. Its digest is kept under what the file is recognised by (`Stamp`), in memory for this process and its
forks and, where a cache folder is given, on disk for every later one:

    <cache_dir>/weights/<name>.json       {"stamp": {...}, "sha256": "..."}; name: hash of the stamp

An edit that leaves path, size, inode, mtime and ctime as they were is not seen; only a clock that was set back makes one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.errors import ModelError
from lab.host.files import text_hash, values_hash, write_atomically
from lab.host.progress import Report, silent

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""Transformers puts an adapter that lies beside a model's weights on it."""
WRITTEN_BY = ("transformers_version", "_name_or_path")
"""Keys of a `config.json` that say who wrote it, not what the model computes."""
RANDOM = "random_weights"
"""A key of `config.json` that is true where whoever made the weights drew them: what such a base says, it has learned nowhere."""
BLOCK = 1 << 22
SHOWN_FROM = 200_000_000
"""Bytes from which on hashing shows a bar: about half a second."""
SETTLED_S = 2.0
"""A file that was written less than so many seconds ago may be written again without its times moving; it is not remembered."""

_KNOWN: dict[Stamp, str] = {}


@dataclass(frozen=True)
class Stamp:
    """What a file is recognised by. path: with every link followed. size: bytes. mtime_ns, ctime_ns: of content, of anything."""

    path: str
    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Of the file as it is now."""
        real = path.resolve()
        found = real.stat()
        return cls(str(real), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def settled(self) -> bool:
        """Whether any later write moves the file's times."""
        return time.time_ns() - max(self.mtime_ns, self.ctime_ns) > SETTLED_S * 1e9


def identify(where: str, revision: str | None = None, cache_dir: Path | None = None, report: Report = silent) -> dict[str, str]:
    """`weights` and `config` of a checkpoint, SHA-256 in 64 hexadecimal digits each; equal for every copy of it.

    where: a folder or a hub id. weights: of one file its own SHA-256, as `sha256sum` prints it and the hub names it; of several,
    the SHA-256 of theirs, sorted, a line each. config: over the values of `config.json`. cache_dir: where digests are kept.
    Raises `ModelError` where no safetensors weights are found, or where the cache folder cannot be written.
    """
    files = weight_files(where, revision)
    if not files:
        raise ModelError(f"model.path={where}: it holds neither {WEIGHTS} nor {INDEX}, so nothing can stand for its weights.")
    digests = sorted(file_digests(files, cache_dir, report))
    weights = digests[0] if len(digests) == 1 else text_hash("\n".join(digests))
    config = located(where, "config.json", revision)
    assert config is not None, "a checkpoint that was loaded has one"
    return {"weights": weights, "config": config_hash(json.loads(Path(config).read_text(encoding="utf-8")))}


def has_random_weights(where: str, revision: str | None = None) -> bool:
    """Whether a checkpoint says of itself that its weights were drawn (`RANDOM`)."""
    config = located(where, "config.json", revision)
    return config is not None and json.loads(Path(config).read_text(encoding="utf-8")).get(RANDOM) is True


def mark_random(folder: Path) -> None:
    """Have a checkpoint say that its weights were drawn."""
    path = folder / "config.json"
    write_atomically(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | {RANDOM: True}, indent=2) + "\n")


def config_hash(values: dict[str, Any]) -> str:
    """SHA-256 over what a `config.json` says of the model, however it is laid out."""
    kept = {key: value for key, value in values.items() if key not in WRITTEN_BY}
    return values_hash(kept, 64)


def located(where: str, name: str, revision: str | None) -> str | None:
    """The path of one of a checkpoint's files; None if it has no such file."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        where,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else str(found)


def weight_files(where: str, revision: str | None) -> list[Path]:
    """The files that Transformers reads weights from: one, or the shards that an index lists; and an adapter's, if there is one."""
    from transformers.utils.hub import get_checkpoint_shard_files

    whole, index = located(where, WEIGHTS, revision), located(where, INDEX, revision)
    if whole is not None:
        paths: Any = [whole]
    elif index is not None:
        paths, _ = get_checkpoint_shard_files(where, index, revision=revision)
    else:
        return []
    beside = [located(where, name, revision) for name in ADAPTER]
    return [Path(path) for path in (*paths, *(beside if all(beside) else ())) if path is not None]


def file_digests(files: Sequence[Path], cache_dir: Path | None, report: Report = silent) -> list[str]:
    """SHA-256 of every file, 64 hexadecimal digits each; files that are known are not read."""
    stamps = [Stamp.of(path) for path in files]
    unknown = dict.fromkeys(stamp for stamp in stamps if recall(stamp, cache_dir) is None)
    total, done = sum(stamp.size for stamp in unknown), 0
    shown = report if total >= SHOWN_FROM else silent
    found: dict[Stamp, str] = {}
    for stamp in unknown:
        digest = hashlib.sha256()
        with open(stamp.path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                done += len(block)
                shown("hashing the weights (MB)", done // 1_000_000, total // 1_000_000, "")
        found[stamp] = digest.hexdigest()
        remember(stamp, found[stamp], cache_dir)
    return [found.get(stamp) or _KNOWN[stamp] for stamp in stamps]


def entry(stamp: Stamp, cache_dir: Path) -> Path:
    """Where a file's digest is kept."""
    return cache_dir / "weights" / f"{text_hash(json.dumps(asdict(stamp)), digits=32)}.json"


def recall(stamp: Stamp, cache_dir: Path | None) -> str | None:
    """A file's digest from memory or from disk; None where it is not known, or what is kept there is damaged."""
    if stamp not in _KNOWN and cache_dir is not None:
        try:
            kept = json.loads(entry(stamp, cache_dir).read_text(encoding="utf-8"))
            if kept["stamp"] == asdict(stamp) and len(bytes.fromhex(kept["sha256"])) == 32:
                _KNOWN[stamp] = kept["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return _KNOWN.get(stamp)


def remember(stamp: Stamp, digest: str, cache_dir: Path | None) -> None:
    """Keep a file's digest, if the file is still what was hashed and any later write will show."""
    if not stamp.settled or Stamp.of(Path(stamp.path)) != stamp:
        return
    _KNOWN[stamp] = digest
    if cache_dir is not None:
        path = entry(stamp, cache_dir)
        try:
            write_atomically(path, json.dumps({"stamp": asdict(stamp), "sha256": digest}) + "\n")
        except OSError as error:
            raise ModelError(f"tracking.cache_dir={cache_dir}: {path} cannot be written ({error.strerror}).") from None
