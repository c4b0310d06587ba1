"""Clips beside pictures: encoding equals the processor's own call of each family, and what it must be told is told."""

from __future__ import annotations

import dataclasses

import checkpoints
import clips
import numpy as np
import pytest
import torch

from lab import model, vision_tokens
from lab.data import video
from lab.data.controls import grey
from lab.data.faults import BadRecord
from lab.errors import ModelError
from lab.evaluation import stages
from lab.model.clips import remarks
from lab.model.encoding import Encoder
from lab.prompt import to_chat
from lab.records import Clip, Footage, Picture, Sample, Sampling, Text

SAMPLINGS = {
    "fps": Sampling(fps=2.0, max_pixels=4096), "count": Sampling(fps=None, num_frames=6, max_pixels=64 * 64 * 6),
    "checkpoint's budget": Sampling(fps=1.0),
}  # fmt: skip


@pytest.fixture(scope="module", params=checkpoints.FAMILIES)
def family(request, tmp_path_factory):
    """A tiny checkpoint of the family."""
    return model.load(checkpoints.save(request.param, tmp_path_factory.mktemp(request.param)))


def sample_of(*images, text="Which way?") -> Sample:
    return Sample("one", text, images, Text(("left",)), "set", "group")


def processors_own(vlm, encoder: Encoder, sample: Sample, **sampling):
    """The inputs of the same prompt by one call of the checkpoint's processor, which samples, resizes and writes times by itself."""
    from transformers.video_utils import VideoMetadata

    from lab.data.images import decode

    chat = to_chat(sample, encoder.prompt)
    text = vlm.processor.apply_chat_template(list(chat.messages), add_generation_prompt=True, tokenize=False)
    shown = [sample.images[i] for i in chat.image_order]
    held = [image for image in shown if isinstance(image, Clip)]
    frames = [video.read(clip, range(video.footage(clip).frames)) for clip in held]
    metadata = [VideoMetadata(total_num_frames=len(each), fps=video.footage(clip).fps) for each, clip in zip(frames, held, strict=True)]
    return vlm.processor(
        text=[text], images=[decode(image) for image in shown if isinstance(image, Picture)] or None, videos=frames, video_metadata=metadata,
        do_sample_frames=True, return_tensors="pt", **sampling,
    )  # fmt: skip


@pytest.mark.parametrize("rule", SAMPLINGS)
def test_a_prompt_with_clips_and_pictures_equals_the_processors_own(family, composer, rule) -> None:
    """Ids, types, pixels, grids, positions and logits."""
    sampling = SAMPLINGS[rule]
    encoder = Encoder(family, composer("prompt=question").prompt)
    one, other = clips.moving(1, number=24, fps=8.0, sampling=sampling)[0], clips.moving(2, number=13, fps=4.0, sampling=sampling)[0]
    picture = Picture("grey", grey(64, 48))
    sample = sample_of(one, picture, other)
    size = {} if sampling.max_pixels is None else {"size": budget(family, sampling)}
    count = {"num_frames": sampling.num_frames, "fps": None} if sampling.num_frames else {"fps": sampling.fps}
    theirs = processors_own(family, encoder, sample, videos_kwargs={**count, **size, "min_frames": 4})
    batch = encoder.collate([encoder.example(sample)], with_answers=False, align=1)
    assert torch.equal(batch.prompt.ids, theirs["input_ids"]) and torch.equal(batch.prompt.types, theirs["mm_token_type_ids"])
    inputs = family.inputs(batch)
    for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
        assert torch.equal(inputs[name], theirs[name]), name
    times = {"second_per_grid_ts": theirs["second_per_grid_ts"]} if encoder.clips.timed else {}
    grids = {name: theirs[name] for name in ("image_grid_thw", "video_grid_thw")}
    positions = family.base_model.model.get_rope_index(theirs["input_ids"], mm_token_type_ids=theirs["mm_token_type_ids"], **grids, **times)[0]
    assert torch.equal(batch.prompt.positions, positions)
    with torch.inference_mode():
        plain = family.base_model(**theirs).logits[:, -1]
        assert torch.allclose(family.logits(batch, 1)[:, -1], plain, atol=1e-5)


def budget(vlm, sampling: Sampling) -> dict[str, int]:
    least = vlm.processor.video_processor.size["shortest_edge"]
    return {"shortest_edge": min(least, sampling.max_pixels), "longest_edge": sampling.max_pixels}


def test_rows_with_clips_are_the_same_alone_and_in_a_batch(family, composer) -> None:
    encoder = Encoder(family, composer("prompt=question").prompt)
    samples = [
        sample_of(clips.moving(1)[0], Picture("grey", grey(64, 48))), sample_of(Picture("grey", grey(64, 48))),
        sample_of(clips.moving(2, number=8)[0], clips.moving(3)[0], text="Which of them?"), sample_of(text="Nothing?"),
    ]  # fmt: skip
    examples = [encoder.example(sample) for sample in samples]
    with torch.inference_mode():
        together = family.logits(encoder.collate(examples, with_answers=False), 1)
        for row, example in zip(together, examples, strict=True):
            assert torch.allclose(row, family.logits(encoder.collate([example], with_answers=False), 1)[0], atol=1e-5)


def test_features_of_clips_equal_their_pixels(family, composer) -> None:
    """Where one tensor stands for an image; the order of clips and pictures in a prompt does not matter."""
    if not family.family.separable:
        pytest.skip("features of several blocks")
    encoder = Encoder(family, composer("prompt=question").prompt)
    batch = encoder.collate([encoder.example(sample_of(clips.moving(1)[0], Picture("grey", grey(64, 48))))], with_answers=True)
    with torch.inference_mode():
        seen = batch.seen(family.encode_images(batch.media.pixels))
        assert torch.allclose(family.logits(batch, 2), family.logits(seen, 2), atol=1e-6)


def test_two_rates_give_other_tokens_and_times(family, composer) -> None:
    """A clip keeps its own rate: 1 and 4 frames a second are another prompt or other positions, never 2 by default."""
    encoder = Encoder(family, composer("prompt=question").prompt)
    clip = clips.moving(1, number=32, fps=8.0)[0]
    sampled = {fps: encoder.sampled(dataclasses.replace(clip, sampling=Sampling(fps=fps, max_pixels=64 * 64 * 8))) for fps in (1.0, 2.0, 4.0)}
    assert [len(sampled[fps].indices) for fps in sampled] == [4, 8, 16]
    assert [sampled[fps].step for fps in sampled] == [2.0, 1.0, 0.5]
    assert len({sampled[fps].times for fps in sampled}) == 3
    counted = dataclasses.replace(clip, sampling=Sampling(fps=None, num_frames=4, max_pixels=64 * 64 * 8))
    assert encoder.sampled(counted).step == 2.0


def test_the_budget_is_of_a_frame_or_of_all(family, composer) -> None:
    encoder = Encoder(family, composer("prompt=question").prompt)
    most = 4096 * 4
    clip = Clip("wide", footage=Footage(64, 8.0, (512, 256)), sampling=Sampling(fps=2.0, max_pixels=most))
    t, h, w = encoder.sampled(clip).grid
    pixels = h * w * family.processor.video_processor.patch_size**2 * (2 * t if encoder.clips.runs_apart else 1)
    assert t == 8 and most / 4 < pixels <= most


@pytest.mark.parametrize(
    ("held", "rule", "reason"),
    [
        (Footage(5, 5.0, (64, 64)), Sampling(fps=None, num_frames=8), "holds 5 frames, and data.video.num_frames=8 asks for more"),
        (Footage(9, 3.0, (9000, 20)), Sampling(), "does not take its 9000 x 20 pixels"),
    ],
)
def test_a_clip_that_the_processor_does_not_take_is_a_bad_record(family, composer, held, rule, reason) -> None:
    encoder = Encoder(family, composer("prompt=question").prompt)
    with pytest.raises(BadRecord, match=reason):
        encoder.check(Clip("some.mp4", sampling=rule, footage=held))


def test_what_a_clip_holds_is_looked_at_where_it_is_not_known(family, composer) -> None:
    encoder = Encoder(family, composer("prompt=question").prompt)
    clip = clips.moving(5)[0]
    assert encoder.sampled(dataclasses.replace(clip, footage=None)) == encoder.sampled(clip)
    assert np.prod(encoder.check(clip)) > 0


def test_times_that_a_model_cannot_tell_apart_are_told(family, composer) -> None:
    """Qwen2.5-VL counts whole steps of time, so that patches of a fast clip share one; the others count patches or write times."""
    encoder = Encoder(family, composer("prompt=question").prompt)
    fast, slow = (Clip(f"{fps}", footage=Footage(48, 24.0, (64, 64)), sampling=Sampling(fps=fps)) for fps in (24.0, 2.0))
    told = remarks([fast, slow], encoder.clips, family.processor, family.base_model.config)
    shared = encoder.clips.shared_times(family.base_model.config, encoder.sampled(fast))
    if not encoder.clips.timed:
        assert told == [] and shared == 0
        return
    batch = encoder.collate([encoder.example(sample_of(clips.moving(1, number=48, fps=24.0, sampling=fast.sampling)[0]))], with_answers=False)
    times = batch.prompt.positions[0][batch.prompt.types == 2]
    assert len(times.unique()) == encoder.sampled(fast).grid[0] - shared < encoder.sampled(fast).grid[0]
    assert len(told) == 1 and told[0].startswith("1 of 2 clips have temporal patches at the time of the one before")


def test_an_fps_that_its_bounds_decide_changes_nothing(family) -> None:
    held = Footage(80, 8.0, (64, 64))
    for rule, nothing in (
        (Sampling(fps=2.0), False), (Sampling(fps=0.1), True), (Sampling(fps=20.0), True), (Sampling(fps=2.0, max_frames=8), True),
        (Sampling(fps=None, num_frames=8), False),
    ):  # fmt: skip
        clip = Clip("clip", footage=held, sampling=rule)
        told = remarks([clip], family.family.architecture.clips, family.processor, family.base_model.config)
        assert any("data.video.fps changes nothing for 1 of 1 clips" in sentence for sentence in told) == nothing


def test_dials_that_change_pictures_take_no_clips(family, composer) -> None:
    """Also where nobody has said before that there are clips."""
    other = family.share()
    if not family.family.offers("vision_tokens=pool"):
        pytest.skip("it has no such dial")
    vision_tokens.install(other, composer("vision_tokens=pool", "vision_tokens.budget=4").vision_tokens)
    with pytest.raises(ModelError, match="is a clip, .*vision_tokens=native"):
        Encoder(other, composer("prompt=question").prompt).check(clips.moving(1)[0])


def test_reading_by_stages_equals_one_call(family, composer) -> None:
    """The tower's output goes to pictures and clips apart, several blocks' features of Qwen3-VL too."""
    encoder = Encoder(family, composer("prompt=question").prompt)
    picture = Picture("grey", grey(64, 48))
    batch = encoder.collate([encoder.example(sample_of(clips.moving(1)[0], picture)), encoder.example(sample_of(picture))], with_answers=False)
    with torch.inference_mode():
        read = stages.prefill(family, batch, stages.encode_images(family, batch))
        assert torch.allclose(read.logits, family.logits(batch, 1)[:, -1], atol=1e-5)
