"""Clips are decoded upright and whole, whatever holds them, or they are bad records with a reason, soon."""

from __future__ import annotations

import dataclasses
import os
import time

import clips
import numpy as np
import pytest
from PIL import Image

from lab.config import DataDial, VideoSampling
from lab.data import check_dial, moving_shapes, scenes, video
from lab.data.faults import BadRecord
from lab.errors import ConfigError
from lab.records import Clip, Footage, Sampling

CONTAINERS = {"mp4": "mpeg4", "avi": "mpeg4", "matroska": "libx264", "webm": "libvpx-vp9", "mpegts": "mpeg4"}


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return clips.encoded(clips.frames())


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_says_what_it_holds_and_gives_the_frames_asked_for(kind) -> None:
    clip = Clip("clip", clips.encoded(clips.frames(), kind=kind, codec=CONTAINERS[kind]))
    assert video.footage(clip) == Footage(24, 8.0, (96, 64))
    read = video.read(clip, [0, 7, 7, 23])
    assert read.shape == (4, 64, 96, 3) and read.dtype == np.uint8
    assert abs(read.astype(int) - clips.frames()[[0, 7, 7, 23]]).mean() < 8


def test_a_clip_without_loss_comes_back_to_the_bit() -> None:
    clip, motion = clips.moving(number=9)
    assert np.array_equal(video.read(clip, range(9)), moving_shapes.draw(motion, 9))
    assert clip.data == clips.moving(number=9)[0].data and clip.data != clips.moving(seed=1, number=9)[0].data
    assert video.footage(dataclasses.replace(clip, footage=None)) == clip.footage == Footage(9, 6.0, (64, 64))


@pytest.mark.parametrize("degrees", clips.QUARTERS)
def test_a_display_matrix_is_honoured_alike_for_files_and_listed_frames(tmp_path, mp4, degrees) -> None:
    """A phone held upright writes lying frames and says how to turn them; a camera does so by EXIF."""
    clip = Clip("phone", clips.turned(mp4, degrees))
    lying, shown = video.read(Clip("phone", mp4), [3])[0], video.read(clip, [3])[0]
    assert np.array_equal(shown, np.rot90(lying, -degrees // 90))
    assert video.footage(clip).size == (shown.shape[1], shown.shape[0])
    exif = Image.Exif()
    exif[274] = {0: 1, 90: 6, 180: 3, 270: 8}[degrees]
    for name in "ab":
        Image.fromarray(lying).save(tmp_path / f"{name}.png", exif=exif)
    listed = video.listed("list", [str(tmp_path / "a.png"), str(tmp_path / "b.png")], Sampling(), fps=1)
    assert np.array_equal(video.read(listed, [0])[0], shown)


def test_a_mirrored_clip_is_mirrored() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(video.upright(image, (-1, 0, 0, 1)), image[:, ::-1])
    assert np.array_equal(video.upright(image, (0, 1, 1, 0)), image.swapaxes(0, 1))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut", "cannot be decoded|cut off"), ("cut matroska", "cut off"), ("empty", "0 bytes"),
        ("text", "cannot be decoded"), ("playlist", "cannot be decoded"), ("one frame", "1 frame,"), ("no frame", "cannot be decoded"),
        ("missing", "the file is missing"), ("pipe", "cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_file_is_a_bad_record_soon(tmp_path, mp4, name, reason) -> None:
    whole = clips.encoded(clips.frames(), kind="matroska", codec="libx264")
    data = {
        "cut": mp4[: len(mp4) * 6 // 10], "cut matroska": whole[: len(whole) * 6 // 10],
        "empty": b"", "text": b"what a video is not" * 99, "playlist": b"#EXTM3U\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n",
        "one frame": clips.encoded(clips.frames(1)), "no frame": whole[: whole.index(b"\x1f\x43\xb6\x75")],
    }  # fmt: skip
    clip = clips.file(tmp_path, data[name]) if name in data else Clip(str(tmp_path / name))
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    begun = time.monotonic()
    with pytest.raises(BadRecord, match=reason) as caught:
        video.footage(clip)
    assert caught.value.source == clip.source and time.monotonic() - begun < 20


def test_decoding_has_a_time_limit(mp4) -> None:
    with pytest.raises(BadRecord, match="took more than"):
        video.footage(Clip("long", mp4), -1.0)


@pytest.mark.parametrize(
    ("clock", "reason"),
    [
        ({}, "needs either its fps or the times .* neither"), ({"fps": 2, "times": [0, 1, 2]}, "both"), ({"fps": 0}, "above 0"),
        ({"times": [0, 1]}, "3 frames and 2 times"), ({"times": [0, 2, 1]}, "later than the one before"),
    ],
)  # fmt: skip
def test_a_list_of_frames_needs_a_clock(clock, reason) -> None:
    """Without one every family would invent times, and two selections would look alike."""
    with pytest.raises(BadRecord, match=reason):
        video.listed("frames.json:3", ["a.png", "b.png", "c.png"], Sampling(), **clock)


def test_listed_frames_are_seen_at_their_times(tmp_path) -> None:
    for shade in range(4):
        Image.new("RGB", (8, 8), (shade * 50,) * 3).save(tmp_path / f"{shade}.png")
    files = [str(tmp_path / f"{shade}.png") for shade in range(4)]
    even = video.listed("even", files, Sampling(), fps=2)
    assert even.times == (0.0, 0.5, 1.0, 1.5) and video.footage(even) == Footage(4, 2.0, (8, 8))
    late = video.listed("late", files, Sampling(), times=[5, 5.1, 5.2, 8])
    assert video.footage(late) == Footage(4, 1.0, (8, 8))
    assert video.read(late, [0, 1, 2, 3])[:, 0, 0, 0].tolist() == [0, 100, 150, 150]


def test_the_name_of_a_clip_is_of_what_it_holds(tmp_path, mp4) -> None:
    assert video.digest(clips.file(tmp_path, mp4)) == video.digest(Clip("elsewhere", mp4)) != video.digest(Clip("turned", clips.turned(mp4, 90)))
    (tmp_path / "a.png").write_bytes(b"a")
    names = [str(tmp_path / "a.png")] * 2
    assert video.digest(video.listed("1", names, Sampling(), fps=1)) != video.digest(video.listed("2", names, Sampling(), fps=2))


def test_drawn_clips_move_as_they_say() -> None:
    """The centre of what is not background or still goes the way of the answer, and all four ways come up."""
    ways = set()
    for seed in range(24):
        motion = moving_shapes.compose(np.random.default_rng(seed), scenes.PALETTES["easy"])
        drawn = moving_shapes.draw(motion, 4).astype(int)
        still = np.asarray(scenes.draw(motion.still)).astype(int)
        centres = [np.argwhere(abs(frame - still).sum(axis=-1) > 30).mean(axis=0) for frame in drawn]
        dy, dx = centres[-1] - centres[0]
        assert max((dx, "right"), (-dx, "left"), (dy, "down"), (-dy, "up"))[1] == motion.answer
        ways.add(motion.answer)
    assert ways == set(moving_shapes.DIRECTIONS)


def test_the_rule_of_sampling() -> None:
    assert video.sampling(VideoSampling()) == Sampling(fps=2.0)
    assert video.sampling(VideoSampling(num_frames=8, max_pixels=9)) == Sampling(fps=None, num_frames=8, max_pixels=9)
    for rule, reason in ((VideoSampling(fps=1.0), "has no clips"), (VideoSampling(fps=1.0, num_frames=4), "no clips")):
        with pytest.raises(ConfigError, match=rf"data\.video\.fps=1\.0.*{reason}"):
            check_dial(DataDial(name="pairs", video=rule), trains=True)
