"""What of a sample's text and answer a checkpoint cannot take: special tokens, too many tokens or images, boxes that are not read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lab.answers import regions
from lab.data.faults import BadRecord, shown
from lab.records import Regions, Sample, Text, Turn

if TYPE_CHECKING:
    from lab.model.encoding import Encoder


def check_text(encoder: Encoder, sample: Sample, prompt: Sequence[int], answer: Sequence[int]) -> None:
    """Raise a `BadRecord` if the sample's text or answer writes special tokens, or both are longer than the model has positions for.

    Special tokens are looked for in the whole prompt, where text may also form one with what stands beside it. They are not
    tokenised as plain letters, since whoever uses the exported model with its own processor would get the tokens. Those that a
    tokenizer does not itself call special (of thinking, of tools) are words of a conversation.
    """
    number = len(sample.images)
    turns, runs = wordless(sample.turns), tuple(map(encoder.runs, sample.images))
    if (runs, turns) not in encoder.framing:
        plain = encoder.framed(replace(sample, text="x", answer=Text(("x",)), turns=turns))
        encoder.framing[runs, turns] = encoder.special(plain.prompt), encoder.special(plain.answer if encoder.labels is None else ())
    pairs = ("text", sample.text, prompt), ("answer", sample.answer.text, answer if encoder.labels is None else ())
    framing = encoder.framing[runs, turns]
    if isinstance(sample.answer, Regions):
        framing = framing[0], special_of_boxes(encoder, sample, sample.answer, answer, len(framing[1])) + framing[1]
    for (what, said, ids), usual in zip(pairs, framing, strict=True):
        found = encoder.special(ids)
        if sample.turns:
            found, usual = (tuple(each for each in some if each in encoder.marks) for some in (found, usual))
        if found != usual:
            beyond = tuple((Counter(found) - Counter(usual)).elements()) or found
            reason = f"its {what} {shown(said)} must not hold special tokens: {encoder.named(beyond)} of this checkpoint's tokenizer"
            raise BadRecord(f"sample {sample.sample_id}", reason)
    length = sum(each not in encoder.media_ids for each in prompt)
    rows = {"prompt and answer are": length + len(answer)} if encoder.inline else {"prompt is": length, "answer is": len(answer)}
    for what, length in rows.items():
        if encoder.positions_of_text is not None and length > encoder.positions_of_text:
            reason = f"its {what} {length} tokens of text, and the model has {encoder.positions_of_text} positions"
            raise BadRecord(f"sample {sample.sample_id}", reason)
    if number < encoder.architecture.fewest_images:
        reason = f"it shows {number} images, and the model compares {encoder.architecture.fewest_images}"
        raise BadRecord(f"sample {sample.sample_id}", reason)
    if encoder.architecture.most_images is not None and number > encoder.architecture.most_images:
        reason = f"it shows {number} images, and the model takes {encoder.architecture.most_images} at once"
        raise BadRecord(f"sample {sample.sample_id}", reason)


def special_of_boxes(encoder: Encoder, sample: Sample, boxes: Regions, ids: Sequence[int], ends: int) -> tuple[int, ...]:
    """The special tokens that its boxes are written with, whatever their labels. ends: how many tokens end the answer.

    Raises a `BadRecord` for boxes of several pictures, and for labels that cannot be read back as they are written.
    """
    if len(sample.images) > 1:
        raise BadRecord(f"sample {sample.sample_id}", f"it shows {len(sample.images)} images, and its boxes are of one")
    plain = replace(boxes, regions=tuple(region._replace(label="x") for region in boxes.regions))
    special = encoder.special(encoder.ids(encoder.boxes_text(plain)))
    text = encoder.tokenizer.decode(list(ids[: len(ids) - ends]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    read = regions.read(text, encoder.boxes, size=boxes.size, resized=encoder.resized(boxes.size))
    labels = [region.label for region in read.regions or read.points]
    if labels != [region.label for region in boxes.regions] and encoder.special(ids[: len(ids) - ends]) == special:
        reason = f"its labels {shown(boxes.text)} are read back as {shown(', '.join(labels))}, written by prompt.boxes={encoder.boxes}"
        raise BadRecord(f"sample {sample.sample_id}", f"{reason} with this checkpoint's tokenizer")
    return special


def wordless(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """A conversation with one word in place of every text."""
    return tuple(replace(turn, parts=tuple("x" if isinstance(part, str) else part for part in turn.parts)) for turn in turns)
