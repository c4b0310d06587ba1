"""Which questions: `load(dial, cache_dir) -> Splits`. One module per data set, imported only when it is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from lab.config import DataDial
    from lab.records import Split, Splits

NAMES = ("pairs", "nlvr", "nlvr2", "winoground")


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read the data set that the dial names, every record and image checked.

    cache_dir: where made tables and the list of verified images are kept (`tracking.cache_dir`).
    Raises `ConfigError` for an illegal value of the dial, `DataError` for data that is missing or bad.
    """
    match dial.name:
        case "pairs":
            from lab.data import pairs as chosen
        case "nlvr":
            from lab.data import nlvr as chosen
        case "nlvr2":
            from lab.data import nlvr2 as chosen
        case "winoground":
            from lab.data import winoground as chosen
        case unknown:
            hint = did_you_mean(str(unknown), NAMES)
            raise ConfigError(f"data.name={unknown}: legal values are {', '.join(NAMES)}.{hint}")
    return chosen.load(dial, Path(cache_dir))


def demand(splits: Splits, part: str) -> Split:
    """Return a split that must not be empty, such as `train` for training; say why it is if it is.

    Raises `DataError`.
    """
    split: Split = getattr(splits, part)
    if len(split) == 0:
        why = getattr(split, "absent", "") or "nothing is left in it."
        raise DataError(f"the {part} split is empty: {why}")
    return split


def fingerprint(split: Split) -> str:
    """Return the SHA-256 of the sample ids in order, each ended by a zero byte: what a run was trained or scored on."""
    digest = hashlib.sha256()
    for sample_id in split.sample_ids:
        digest.update(sample_id.encode("utf-8") + b"\0")
    return digest.hexdigest()
