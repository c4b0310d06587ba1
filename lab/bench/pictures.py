"""Pairs of pictures as photographs are stored: 640 x 480 JPEG files, in the folder layout of `data=nlvr2`.

Scenes and statements are those of `data=pairs`; only the files are larger. A drawing compresses better than a photograph and is
decoded faster, so what is saved by not decoding it is rather more on real data. NLVR2 names its files `.png` whatever they hold;
the reader goes by content.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lab.data.pairs import DECK, PER_BLOCK, make_block
from lab.data.scenes import PALETTES, Scene, draw
from lab.host.progress import Report, silent

SIZE = (640, 480)
QUALITY = 90
STREAM = 0xBE7C4
BLOCKS = {"train": 160, "dev": 30}
"""Blocks of four image pairs and four sentences in each split: 16 statements and 8 pictures a block."""
DIRECTORIES = 20
"""Buckets of the train file; `data=nlvr2` holds the last twentieth of them out as minival."""


def encode(scene: Scene) -> bytes:
    """One scene as a JPEG of `SIZE`."""
    buffer = io.BytesIO()
    draw(scene).resize(SIZE, Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()


def make(folder: Path, blocks: dict[str, int] | None = None, report: Report = silent) -> Path:
    """Write the data set unless it is there; a folder appears under its name only when it is complete."""
    if folder.is_dir():
        return folder
    blocks = BLOCKS if blocks is None else blocks
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    done, total = 0, sum(blocks.values())
    try:
        for number, (split, count) in enumerate(blocks.items()):
            with (work / f"{split}.json").open("w", encoding="utf-8") as manifest:
                for block in range(count):
                    for record in write_block(work, split, number, block):
                        manifest.write(json.dumps(record) + "\n")
                    done += 1
                    report("pictures of 640 x 480 (blocks of 8)", done, total, "")
        work.chmod(0o755)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def write_block(folder: Path, split: str, number: int, block: int) -> list[dict[str, object]]:
    """Draw one block's pictures into the folder and return its records, in NLVR2's own form."""
    rng = np.random.default_rng([STREAM, number, block])
    families = rng.permutation(DECK)[:PER_BLOCK].tolist()
    scenes, asked = make_block(rng, PALETTES["medium"], families)
    directory = block % DIRECTORIES
    images = folder / "images" / split / str(directory) if split == "train" else folder / "images" / split
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for pair, sides in enumerate(scenes):
        for side, scene in enumerate(sides):
            (images / f"{split}-{block}-{pair}-img{side}.png").write_bytes(encode(scene))
        for sentence, (statement, truth) in enumerate(asked):
            record: dict[str, object] = {"identifier": f"{split}-{block}-{pair}-{sentence}", "sentence": statement.text}
            records.append({**record, "label": str(truth[pair]), **({"directory": directory} if split == "train" else {})})
    return records
