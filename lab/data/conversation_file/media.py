"""The media that a record names: files, frames of a clip with their times, or pictures in a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lab.data.faults import shown

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MEDIA = (*PICTURES, ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".wav", ".mp3", ".flac")
"""Endings by which a value under a key that is not read is known for a medium that would be lost."""


class Fault(Exception):
    """What is wrong with a record. key: of the record; reason: the rest of the sentence."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason


class Medium(NamedTuple):
    """A file that a record names, or the place-th picture in a cell of a table. kind: of `KINDS`; frames, fps, times: of a video given so."""

    kind: str
    file: str = ""
    place: int | None = None
    frames: tuple[str, ...] = ()
    fps: float | None = None
    times: tuple[float, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it is read from; none of what lies in a table."""
        return self.frames or ((self.file,) if self.place is None else ())


def may_be_medium(value: Any) -> bool:
    """Whether a value under a key that is not read may be a medium, or several."""
    return value.lower().endswith(MEDIA) if type(value) is str else type(value) in (list, dict)


def refuse_unread_media(record: Mapping[str, Any], unread: Collection[str], names: Mapping[str, str]) -> None:
    """Raise a `Fault` for a key that is not read and holds what looks like a medium: it would be lost without a word."""
    for key in sorted(unread):
        value = record[key]
        several = value if type(value) is list else [value]
        if any(type(one) is str and one.lower().endswith(MEDIA) or (type(one) is dict and "bytes" in one) for one in several):
            legal = ", ".join(repr(names[column]) for column in ("image", "images", "video", "videos"))
            raise Fault(key, f"{shown(value)} looks like a medium, and is not read; media stand under {legal}. data.columns.image={key} reads it")


def medium(kind: str, key: str, value: Any) -> Medium:
    """A medium as a record gives it. Raises `Fault`."""
    if type(value) is dict and kind == "video" and value.get("frames") is not None:
        return clip_of_frames(key, value)
    if type(value) is dict and value.get("bytes") is None and type(value.get("path")) is str:
        value = value["path"]
    if type(value) is not str or not value.strip():
        raise Fault(key, f"{shown(value)} is given; the path of a file, or a list of them, is legal")
    if "://" in value or value.startswith("data:"):
        raise Fault(key, f"{shown(value)} is an address; a file is legal. Fetch it first")
    if kind == "video" and value.lower().endswith(PICTURES):
        raise Fault(key, f'{shown(value)} is a picture; a video of frames is legal as {{"frames": [FILE, ...], "fps": 2}}, which says their times')
    return Medium(kind, value)


def clip_of_frames(key: str, value: Mapping[str, Any]) -> Medium:
    """A video that is given as pictures of its frames. Raises `Fault` unless it says when each is."""
    frames, fps, times = value["frames"], value.get("fps"), value.get("times")
    if type(frames) is not list or not frames or not all(type(one) is str and one.strip() for one in frames):
        raise Fault(key, f"its frames are {shown(frames)}; a list of files is legal")
    if (fps is None) == (times is None):
        raise Fault(key, f'its {len(frames)} frames have {"both" if fps else "neither"} "fps" {"and" if fps else "nor"} "times"; give one of them')
    if fps is not None and not (type(fps) in (int, float) and 0 < fps <= 1000):
        raise Fault(key, f'"fps" is {shown(fps)}; a number above 0 is legal')
    rising = type(times) is list and all(type(one) in (int, float) and one >= 0 for one in times) and times == sorted(set(times))
    if times is not None and not (rising and len(times) == len(frames)):
        raise Fault(key, f'"times" is {shown(times)}; a rising number of seconds from 0 for each of the {len(frames)} frames is legal')
    return Medium("video", frames[0], frames=tuple(frames), fps=fps, times=tuple(map(float, times or ())))
