"""Small video files for tests, made on the spot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from lab.data import moving_shapes, scenes
from lab.records import Clip, Sampling

IDENTITY = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
QUARTERS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""(a, b, c, d) of the display matrix that turns clockwise by so many degrees."""


def frames(number: int = 24, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames that grow lighter, with a white corner at the top left."""
    made = np.zeros((number, height, width, 3), np.uint8)
    made += (np.arange(number, dtype=np.uint8) * 10 % 200)[:, None, None, None]
    made[:, : height // 4, : width // 4] = 255
    return made


def encoded(images: np.ndarray, rate: int = 8, kind: str = "mp4", codec: str = "mpeg4") -> bytes:
    """A video file of these frames."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def turned(data: bytes, degrees: int) -> bytes:
    """An MP4 that says it is to be shown turned clockwise."""
    a, b, c, d = QUARTERS[degrees]
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    track = data.index(IDENTITY, data.index(b"tkhd"))
    return data[:track] + matrix + data[track + len(matrix) :]


def moving(seed: int = 0, number: int = 12, fps: float = 6.0, sampling: Sampling | None = None) -> tuple[Clip, moving_shapes.Motion]:
    """A drawn clip and what moves in it."""
    motion = moving_shapes.compose(np.random.default_rng(seed), scenes.PALETTES["easy"])
    return moving_shapes.clip(f"moving#{seed}", motion, number, fps, sampling or Sampling(fps=2.0, max_pixels=1024)), motion


def file(folder: Path, data: bytes, name: str = "clip.mp4") -> Clip:
    """A clip in a file."""
    path = folder / name
    path.write_bytes(data)
    return Clip(str(path))
