"""Ten questions about four sets of pictures, drawn on the spot: what tests of shared reading ask."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from lab.records import Picture, Sample, Text

ASKED = (("what is it?", "a red chair"), ("how many legs has it?", "4"), ("where?", "in a hall behind a small table"), ("what is it?", "wood"))


def picture(seed: int, size: tuple[int, int]) -> Picture:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(out, format="PNG")
    return Picture(f"drawn {seed}", out.getvalue(), size=size)


def samples() -> list[Sample]:
    """Four questions about one picture, three about another, two about a pair, one about a third: in turn, so that no two of one are neighbours."""
    wide, tall, third = picture(0, (96, 64)), picture(1, (64, 128)), picture(2, (64, 64))
    found = [
        Sample(f"{name}{i}", question, shown, Text((answer,)), name, f"{name}{i}")
        for name, shown, number in (("wide", (wide,), 4), ("tall", (tall,), 3), ("pair", (tall, wide), 2), ("third", (third,), 1))
        for i, (question, answer) in enumerate(ASKED[:number])
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]
