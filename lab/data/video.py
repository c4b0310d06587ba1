"""Encoded, untrusted clips -> frames: which of them a family's rule asks for, upright, at their times.

PyAV decodes, with the FFmpeg libraries in its wheel. A file is opened by this process and read through it, so that what it holds
can name no other file or address; formats that list others (playlists) are refused. What is no complete clip is a `BadRecord`: no
black frames in place of lost ones, no retries, and none that takes longer than `LIMIT_S`. (A broadcast stream, MPEG-TS, declares no
length: cut anywhere it is a whole one.)

A clip is taken as frames at one rate: frame i is the one nearest to i / fps seconds. Of a file whose frames are evenly spaced that is
its i-th frame; of one whose rate varies, and of listed frames at uneven times, what is seen at that time.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from lab.config import VideoSampling
from lab.data import images
from lab.data.faults import BadRecord
from lab.data.files import open_regular, why_unreadable
from lab.records import Clip, Footage, Picture, Sampling

if TYPE_CHECKING:
    from av import VideoFrame

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf"
"""FFmpeg's names of what is read: containers that hold all of a clip."""
LIMIT_S = 120.0
"""Seconds after which decoding one clip is given up."""
MAX_BYTES = 4 * 1024**3
"""Largest encoded clip that is read."""
WHOLE = 0.9
"""Share of the duration that its header declares which a clip must hold, or it is cut off. Sound may be longer than pictures."""
SAME_RATE = 0.02
"""Share by which the rate that a file declares may differ from that of its frames; else the latter holds."""
DEFAULT_FPS = 2.0
"""Frames a second where the config says neither fps nor num_frames: what the authors of all three families sample by."""


class Moment(NamedTuple):
    """A frame that is decoded when it is wanted. second: from the clip's beginning. image: upright, uint8 [H, W, 3].

    rate: frames a second by the file's own word, more exact than the rounded times in it; 0: it has none.
    """

    second: float
    size: tuple[int, int]
    image: Callable[[], np.ndarray]
    rate: float = 0.0


def sampling(video: VideoSampling) -> Sampling:
    """The rule that `data.video` says."""
    fps = DEFAULT_FPS if video.num_frames is None and video.fps is None else video.fps
    return Sampling(fps, video.num_frames, video.min_frames, video.max_frames, video.max_pixels)


def listed(source: str, frames: Sequence[str], rule: Sampling, fps: float | None = None, times: Sequence[float] | None = None) -> Clip:
    """A clip of picture files in order, at so many a second or at these times. source: what an error names.

    Raises `BadRecord` where nothing says when its frames were: every family would invent times of its own.
    """
    if (fps is None) == (times is None):
        given = "neither is" if fps is None else "both are"
        raise BadRecord(source, f"a list of frames needs either its fps or the times of its frames, in seconds; {given} given")
    if fps is not None and not fps > 0:
        raise BadRecord(source, f"its fps is {fps}, and it must be above 0")
    seconds = [place / fps for place in range(len(frames))] if fps is not None else [float(second) for second in times or ()]
    if len(seconds) != len(frames) or any(later <= earlier for earlier, later in zip(seconds, seconds[1:], strict=False)):
        raise BadRecord(source, f"it lists {len(frames)} frames and {len(seconds)} times; each frame needs one, later than the one before")
    return Clip(source, frames=tuple(frames), times=tuple(second - seconds[0] for second in seconds), sampling=rule)


def footage(clip: Clip, limit_s: float = LIMIT_S) -> Footage:
    """What a clip holds; where that is not known yet, all of it is decoded. Raises `BadRecord` for one that is not whole, or takes longer."""
    if clip.footage is not None:
        return clip.footage
    number, last, size, rate = 0, 0.0, (0, 0), 0.0
    for moment in moments(clip, limit_s):
        if number and moment.size != size:
            raise BadRecord(clip.source, f"its frames change from {size[0]} x {size[1]} to {moment.size[0]} x {moment.size[1]} pixels")
        number, last, size, rate = number + 1, moment.second, moment.size, moment.rate
    if number < 2:
        raise BadRecord(clip.source, f"it holds {number or 'no'} frame{'' if number == 1 else 's'}, and a clip needs two at least")
    measured = (number - 1) / last
    return Footage(number, rate if abs(rate / measured - 1) < SAME_RATE else round(measured, 6), size)


def read(clip: Clip, indices: Sequence[int]) -> np.ndarray:
    """Frames of these places, in ascending order, upright: uint8 [n, H, W, 3]. Raises `BadRecord`."""
    fps = footage(clip).fps
    times = [index / fps for index in indices]
    frames: list[np.ndarray] = []
    before: Moment | None = None
    for moment in moments(clip):
        if before is not None:
            nearer = sum(second <= (before.second + moment.second) / 2 for second in times[len(frames) :])
            frames += [before.image()] * nearer if nearer else []
        if len(frames) == len(times):
            return np.stack(frames)
        before = moment
    assert before is not None
    return np.stack(frames + [before.image()] * (len(times) - len(frames)))


def digest(clip: Clip) -> bytes:
    """32 bytes that name what a clip holds: SHA-256 of its file, or of its listed frames and times. Raises `BadRecord`."""
    name = hashlib.sha256(repr(clip.times).encode())
    for source in clip.frames or (clip.source,):
        try:
            with opened(replace(clip, source=source)) as file:
                while block := file.read(1 << 20):
                    name.update(block)
        except OSError as error:
            raise BadRecord(source, why_unreadable(error)) from None
    return name.digest()


def moments(clip: Clip, limit_s: float = LIMIT_S) -> Iterator[Moment]:
    """All frames in order, within so many seconds. Raises `BadRecord`."""
    yield from of_pictures(clip) if clip.frames else of_file(clip, limit_s)


def of_pictures(clip: Clip) -> Iterator[Moment]:
    """The listed frames."""
    for source, second in zip(clip.frames, clip.times, strict=True):
        image = images.decode(Picture(source))
        yield Moment(second, image.size, partial(np.asarray, image))


def opened(clip: Clip) -> BinaryIO:
    """The encoded bytes; a pipe or a device is refused before it can block."""
    if clip.data is not None:
        return io.BytesIO(clip.data)
    try:
        return open_regular(clip.source)
    except (OSError, ValueError) as error:
        raise BadRecord(clip.source, why_unreadable(error)) from None


def of_file(clip: Clip, limit_s: float) -> Iterator[Moment]:
    """The frames of a video file."""
    import av
    from av.error import FFmpegError

    with opened(clip) as file:
        if not 0 < (size := file.seek(0, io.SEEK_END)) <= MAX_BYTES:
            raise BadRecord(clip.source, f"the clip has {size} bytes; 1 to {MAX_BYTES} are read")
        file.seek(0)
        try:
            with av.open(file, options={"format_whitelist": FORMATS}) as container:
                yield from decoded(clip.source, container, limit_s)
        except FFmpegError as error:
            raise BadRecord(clip.source, f"the clip cannot be decoded ({error.strerror})") from None


def decoded(source: str, container: Any, limit_s: float) -> Iterator[Moment]:
    """The frames of an open container's first video stream. Raises `BadRecord` if they are fewer than it declares, or take too long."""
    if not container.streams.video:
        raise BadRecord(source, "the file holds no video")
    stream, deadline = container.streams.video[0], time.monotonic() + limit_s
    rate = float(stream.average_rate or 0)
    stream.codec_context.thread_count = 1
    begins: float | None = None
    second, step = 0.0, 1 / rate if rate else 0.0
    for packet in container.demux(stream):
        frames = packet.decode()
        if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            raise BadRecord(source, f"the clip is damaged or cut off: a frame after {second:.2f} s is incomplete")
        for frame in frames:
            if time.monotonic() > deadline:
                raise BadRecord(source, f"decoding the clip took more than {limit_s:g} s, after which it is given up")
            begins = frame.time if begins is None else begins
            if frame.time is None or begins is None:
                raise BadRecord(source, "its frames have no times")
            second, step = frame.time - begins, frame.time - begins - second or step
            yield Moment(second, upright_size(source, frame), partial(pixels, frame), rate)
    if second + step < WHOLE * (declares := declared(stream, container)):
        raise BadRecord(source, f"the clip is cut off: it holds {second + step:.2f} of the {declares:.2f} s that its header declares")


def declared(stream: Any, container: Any) -> float:
    """The seconds of video that a file says it holds; 0 where it says nothing."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:  # Matroska: hours:minutes:seconds
        hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
        return (hours * 60 + minutes) * 60 + seconds
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else 0.0


def matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the frame's display matrix, 16.16 fixed point: what is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1 << 16, 0, 0, 1 << 16
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    return a, b, c, d


def pixels(frame: VideoFrame) -> np.ndarray:
    """A frame upright, uint8 [H, W, 3]. Converted by this thread alone: a converter with threads of its own hangs a fork that frees it."""
    return upright(frame.to_ndarray(format="rgb24", threads=1), matrix(frame))


def upright(image: np.ndarray, turned: tuple[int, int, int, int]) -> np.ndarray:
    """A frame [H, W, 3] as its display matrix shows it: turned by right angles, mirrored or both."""
    a, b, c, d = turned
    if a or d:
        return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
    return np.ascontiguousarray(image.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1])


def upright_size(source: str, frame: VideoFrame) -> tuple[int, int]:
    """(width, height) of a frame as shown. Raises `BadRecord` for one that is turned by another angle, or too large."""
    a, b, c, d = matrix(frame)
    if (a or d) and (b or c):
        raise BadRecord(source, f"its frames are turned by {frame.rotation} degrees, and only right angles are read")
    if frame.width * frame.height > images.MAX_PIXELS:
        raise BadRecord(source, f"its frames have {frame.width} x {frame.height} pixels; {images.MAX_PIXELS} are decoded at most")
    return (frame.width, frame.height) if a or d else (frame.height, frame.width)


def encode(frames: np.ndarray, fps: float) -> bytes:
    """Frames uint8 [n, H, W, 3] as a Matroska file without loss (FFV1), the same bytes each time."""
    import av
    from av.codec.context import Flags

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        stream.codec_context.flags |= Flags.bitexact
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0", threads=1)))
        container.mux(stream.encode())
    return buffer.getvalue()


def filmstrip(clip: Clip, number: int, shown: Sequence[int] = ()) -> list[Image.Image]:
    """At most so many frames of a clip, evenly over it. shown: of these places, as a model was shown them; else of all its frames."""
    places = shown or range(footage(clip).frames)
    chosen = np.linspace(0, len(places) - 1, min(number, len(places))).round().astype(int).tolist()
    return [Image.fromarray(frame) for frame in read(clip, [places[place] for place in chosen])]
