"""Drawn clips: one coloured shape moves across a scene of still ones, and the question is which way.

A frame is a scene of `lab.data.scenes`, 64 x 64 pixels. No single frame says the answer. Everything is a pure function of the
generator passed in; the files are made on the spot, without loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lab.data import scenes, video
from lab.data.scenes import SIDE, Palette, Scene, Thing
from lab.records import Clip, Footage, Sampling

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MARGIN = 10.0
"""Pixels between the path's ends and the frame's border."""


@dataclass(frozen=True, slots=True)
class Motion:
    """A thing that moves in a direction through a scene; its x and y are those of the path's middle."""

    thing: Thing
    direction: str
    still: Scene

    @property
    def question(self) -> str:
        return f"Which way does the {self.thing.colour} {self.thing.shape} move?"

    @property
    def answer(self) -> str:
        return self.direction


def compose(rng: np.random.Generator, palette: Palette) -> Motion:
    """Choose what moves, which way, and one or two still things of other kinds beside its path."""
    kinds = [(colour, shape) for colour in palette.colours for shape in palette.shapes]
    moving, *still = (kinds[place] for place in rng.permutation(len(kinds))[: int(rng.integers(2, 4))].tolist())
    direction = list(DIRECTIONS)[int(rng.integers(len(DIRECTIONS)))]
    across = DIRECTIONS[direction][0] != 0
    line = int(rng.integers(scenes.GRID))
    path = [cell for cell in range(scenes.NUM_CELLS) if (cell // scenes.GRID if across else cell % scenes.GRID) == line]
    free = rng.permutation([cell for cell in range(scenes.NUM_CELLS) if cell not in path]).tolist()
    things = tuple(scenes.place(rng, cell, *kind) for cell, kind in zip(free, still, strict=False))
    thing = scenes.place(rng, path[0], *moving)
    thing = replace(thing, x=SIDE / 2) if across else replace(thing, y=SIDE / 2)
    return Motion(thing, direction, Scene(things, scenes.compose(rng, palette, []).background))


def draw(motion: Motion, num_frames: int) -> np.ndarray:
    """So many frames from one end of the path to the other, uint8 [n, 64, 64, 3]."""
    dx, dy = DIRECTIONS[motion.direction]
    frames = []
    for shift in np.linspace(MARGIN - SIDE / 2, SIDE / 2 - MARGIN, num_frames).tolist():
        thing = replace(motion.thing, x=motion.thing.x + dx * shift, y=motion.thing.y + dy * shift)
        frames.append(np.asarray(scenes.draw(replace(motion.still, things=(*motion.still.things, thing)))))
    return np.stack(frames)


def clip(name: str, motion: Motion, num_frames: int, fps: float, sampling: Sampling) -> Clip:
    """The motion as a clip in memory. name: what an error names."""
    return Clip(name, video.encode(draw(motion, num_frames), fps), sampling=sampling, footage=Footage(num_frames, fps, (SIDE, SIDE)))
