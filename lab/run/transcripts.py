"""Samples as the model will see them, token by token: the chat template, placeholders, pictures as resized, and what is under loss.

Everything is read off the batch that training makes of a sample, so that a page cannot say other than what is learned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lab.config import Experiment
from lab.costs.without_weights import encoder_of
from lab.data import video
from lab.data.faults import BadRecord
from lab.data.images import decode
from lab.errors import ConfigError
from lab.host.files import write_atomically
from lab.model.batching import IGNORED, costs
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Clip, Medium, Sample
from lab.report.document import Block, Heading, Mono, Paragraph, Stretch, Transcript
from lab.report.gallery import MOST_FRAMES, thumbnail
from lab.report.webpage import to_html
from lab.training.examples import Examples

NUMBER = 3
"""Samples on the page of a run's folder."""
FILE = "examples.html"
LARGEST = 448
"""Longest side [px] of a picture on the page."""
GREEN, PLAIN = "\x1b[32m", "\x1b[0m"
"""What a terminal colours by."""


def write(examples: Examples, path: Path) -> None:
    """The page of a split's first samples."""
    found = [transcript(examples.encoder, examples.sample(place, read=True)) for place in range(min(NUMBER, len(examples)))]
    write_atomically(path, page(found))


def show(x: Experiment, samples: Iterable[Sample], number: int, path: Path, colour: bool) -> str:
    """The first samples as text, and on a page at `path`. Raises `ConfigError` where the checkpoint's processor is not on this machine."""
    encoder = encoder_of(x)
    if encoder is None:
        raise ConfigError(f"model.path={x.model.path}: its processor is not on this machine, so nobody can say how it will see a sample.")
    most, found, problems = x.data.max_length, [], []
    for one in itertools.islice(samples, number):
        try:
            found.append(transcript(encoder, one if most is None else encoder.shortened(one, most)))
        except BadRecord as fault:
            problems.append(f"problem: {fault}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(found))
    return "\n\n".join([*(render(one, colour) for one in found), *problems, f"the same with pictures: {path}"])


def page(found: Sequence[Transcript]) -> str:
    """All of them in HTML."""
    opening = Paragraph(
        "Samples of train as the model sees them: the chat template's own tokens are grey, tokens under loss are coloured, and pictures are as "
        "large as they are read."
    )
    blocks: list[Block] = [Heading(1, "What is learned"), opening, *found]
    return to_html(blocks, "What is learned")


def render(one: Transcript, colour: bool) -> str:
    """One as text; what is learned in green, or between ⟦ and ⟧."""
    if not colour:
        return f"{''.join(one.title)}\n{one.marked}"
    return f"{''.join(one.title)}\n" + "".join(f"{GREEN}{each.text}{PLAIN}" if each.face == "learned" else each.text for each in one.stretches)


def transcript(encoder: Encoder, sample: Sample) -> Transcript:
    """A sample as training reads it. Raises `BadRecord` as `Encoder.text` does."""
    text = encoder.text(sample)
    shown = [sample.images[place] for place in text.image_order]
    example = Example(sample.sample_id, text, tuple(map(encoder.check, shown)))
    pictures = [seen(encoder, number, *pair) for number, pair in enumerate(zip(shown, example.grids, strict=True), start=1)]
    marks = [mark for medium, picture in zip(shown, pictures, strict=True) for mark in (picture, *[None] * (encoder.runs(medium) - 1))]
    found = list(of_row(encoder, example, marks)) if encoder.inline else [*pictures, *of_texts(encoder, sample)]
    size = encoder.size(example, answered=True)
    of_images = f" ({sum(size.tokens):,} of {len(shown)} image{'s' * (len(shown) > 1)})" if shown else ""
    title = f" {size.length:,} tokens{of_images}, {text.targets:,} learned"
    return Transcript((Mono(sample.sample_id), title), tuple(found))


def of_row(encoder: Encoder, example: Example, marks: Sequence[Stretch | None]) -> Iterator[Stretch]:
    """The row of an example: alike tokens together. marks: what is shown in place of each run of tokens of an image; None: nothing more."""
    batch = encoder.collate([example], with_answers=True, learned=True)
    ids, types, decode_ids = batch.prompt.ids[0].tolist(), batch.prompt.types[0].tolist(), encoder.tokenizer.decode
    assert batch.target.labels is not None
    learned = batch.target.labels[0].tolist()
    labels = [IGNORED] * (len(ids) - len(learned)) + learned
    waiting = zip(marks, costs(encoder, example), strict=False)

    def face(place: int) -> str:
        if types[place]:
            return "picture"
        if labels[place] != IGNORED:
            return "learned" if labels[place] == ids[place] else "end"
        return "special" if ids[place] in encoder.marks else ""

    before = ""
    for kind, group in itertools.groupby(range(len(ids)), key=face):
        places = list(group)
        whole = decode_ids(ids[: places[-1] + 1], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        text, before = whole[len(before) :], whole
        if kind == "picture":
            left = len(places)
            while left > 0:
                mark, tokens = next(waiting)
                left -= tokens
                if mark is not None:
                    yield mark
        elif kind == "end":  # the template writes none, so it is learned in place of what follows
            yield Stretch(decode_ids([labels[places[0]]], skip_special_tokens=False), "learned")
            yield Stretch(text)
        else:
            yield Stretch(text, kind)


def of_texts(encoder: Encoder, sample: Sample) -> list[Stretch]:
    """Prompt and answer of a model that reads them apart."""
    prompt, answer = encoder.framed(sample).texts
    return [Stretch(f"{prompt}\n"), Stretch(answer, "learned")]


def seen(encoder: Encoder, number: int, medium: Medium, grid: tuple[int, int, int]) -> Stretch:
    """A picture as large as the model reads it, a clip as a filmstrip, and what it costs."""
    tokens = encoder.tokens(grid)
    if isinstance(medium, Clip):
        strip = thumbnail(video.filmstrip(medium, MOST_FRAMES), LARGEST)
        return Stretch(f"[clip {number}: {grid[0]} x {grid[1]} x {grid[2]} patches, {tokens} tokens]", picture=strip)
    image = resized(encoder, decode(medium))
    return Stretch(f"[image {number}: {image.width} x {image.height} px, {tokens} tokens]", picture=thumbnail([image], LARGEST))


def resized(encoder: Encoder, image: Image.Image) -> Image.Image:
    """A picture as the tower reads it: brought to its size, or cut to the one square that all are; of tiles the one that has all of it."""
    if (size := encoder.resized(image.size)) is not None:
        return image.resize(size, Image.Resampling.BICUBIC)
    made = encoder.processor.image_processor(images=[image], do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"]
    shown = np.asarray(made[0])
    whole = shown if shown.ndim == 3 else shown[-1 if encoder.architecture.tiled else 0]
    return Image.fromarray(whole.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
