"""What a run's model is shown of each clip, for its folder and its contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.model.clips import clips_of
from lab.model.encoding import Encoder
from lab.records import Clip
from lab.store import clip_files
from lab.training.examples import Examples


def keep(encoded: Mapping[str, Examples], run_dir: Path) -> dict[str, Any]:
    """Write `clips.jsonl`, and return frames, seconds and tokens of a clip: least, mean and most."""
    encoder = encoded["dev"].encoder
    rows = [row_of(encoder, clip) for clip in clips_of(examples.split for examples in encoded.values() if not examples.many)]
    clip_files.write(run_dir, rows)
    columns = {"frames": [len(row["shown"]) for row in rows], "seconds": [row["seconds"] for row in rows], "tokens": [row["tokens"] for row in rows]}
    spread = {f"{name}/{end}": value for name, values in columns.items() for end, value in ends(values).items()}
    return {"number": len(rows), **spread}


def ends(values: list[float]) -> dict[str, float]:
    """Least, mean and most."""
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)} if values else {}


def row_of(encoder: Encoder, clip: Clip) -> dict[str, Any]:
    """Of one clip."""
    sampled = encoder.sampled(clip)
    return {
        "source": clip.source, "frames": sampled.footage.frames, "fps": sampled.footage.fps, "seconds": sampled.footage.seconds,
        "shown": list(sampled.indices), "times": [round(second, 3) for second in sampled.times], "grid": list(sampled.grid),
        "tokens": encoder.tokens(sampled.grid),
    }  # fmt: skip
