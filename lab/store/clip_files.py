"""`clips.jsonl` of a run: what its model was shown of each clip, one JSON object a line.

    source          as errors name it
    frames, fps     what the clip holds, and at what rate; seconds: how long it lasts
    shown           places of the frames that are shown, in order; times: the second of each pair of them
    grid            [t, h, w] in patches, t counting pairs of frames; tokens: what it costs the language model
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.errors import DataError
from lab.host.files import write_atomically

NAME = "clips.jsonl"


def write(run_dir: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write all of them."""
    write_atomically(run_dir / NAME, "".join(json.dumps(row) + "\n" for row in rows))


def shown(run_dir: Path) -> dict[str, list[int]]:
    """The places of the frames that a run's model was shown, by the clip's source; empty for a run without clips. Raises `DataError`."""
    path = run_dir / NAME
    if not path.is_file():
        return {}
    try:
        rows = list(map(json.loads, path.read_bytes().splitlines()))
        return {row["source"]: [int(place) for place in row["shown"]] for row in rows}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: it does not say which frames were shown ({error}). Restore it.") from None
