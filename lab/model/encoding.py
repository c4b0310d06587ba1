"""`Sample -> Example`: the checkpoint's own chat template, tokenizer and image processor; then a batch (`lab.model.batching`).

A prompt is tokenised once with one placeholder an image that stands in it; the placeholder is then repeated as often as the image
costs tokens. The result equals the processor's own call (tests/test_encoding.py) and serves every token budget.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.answers import regions
from lab.config import DataDial, PromptDial
from lab.data.faults import BadRecord, shown
from lab.data.images import decode, size_of
from lab.errors import ConfigError, ModelError
from lab.model import Vlm, turns
from lab.model.answers import AnyReadout, readout
from lab.model.batching import ALIGN, collate, labels_of
from lab.model.labels import Labels
from lab.model.turns import Span
from lab.prompt import of_data, parse_template, to_chat, written
from lab.records import TRUE_FALSE, AnswerSpace, Batch, Chat, Clip, ExampleSize, Medium, Picture, Regions, Sample, Text, Turn

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from lab.model.clips import Sampled


def wordless(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """A conversation with one word in place of every text."""
    return tuple(replace(turn, parts=tuple("x" if isinstance(part, str) else part for part in turn.parts)) for turn in turns)


def with_written(chat: Chat, written: Sequence[str | None]) -> Chat:
    """The chat that says of each picture or clip in order what stands for it in the prompt's text, where that is more than a placeholder."""
    behind = iter(written)
    marked = []
    for message in chat.messages:
        found = [(part, None if part["type"] == "text" else next(behind)) for part in message["content"]]
        marked.append({**message, "content": [part if text is None else part | {"written": text} for part, text in found]})
    return replace(chat, messages=tuple(marked))


class Framed(NamedTuple):
    """A sample as messages, the texts of prompt and answer, and their ids."""

    chat: Chat
    texts: tuple[str, str]
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A tokenised prompt, one placeholder a picture and for each run of tokens of a clip, and its answer with the end-of-turn token. int64.

    second_ids: of the prompt by a second tokenizer, of models that have one. learned: (first, behind the last) of its tokens that are
    learned too; the last of each is labelled with the end of turn. steps: of each image as shown the seconds from one temporal patch of
    a clip to the next, 0 of a picture; () where none is a clip.
    """

    prompt_ids: np.ndarray
    answer_ids: np.ndarray
    image_order: tuple[int, ...]
    second_ids: Sequence[int] = ()
    learned: tuple[Span, ...] = ()
    steps: tuple[float, ...] = ()

    @property
    def targets(self) -> int:
        """How many tokens are learned, those of the answer among them."""
        return len(self.answer_ids) + sum(stop - start for start, stop in self.learned)


@dataclass(frozen=True, slots=True)
class Example:
    """One sample ready for a batch: text, and for each image its patch grid with pixels or with features.

    grids: [(t, h, w)] in patches. pixels: float32, as the family's tower takes them. features: [tokens, hidden] each.
    """

    sample_id: str
    text: TokenizedPrompt
    grids: tuple[tuple[int, int, int], ...]
    pixels: tuple[torch.Tensor, ...] = ()
    features: tuple[torch.Tensor, ...] = ()


class Encoder:
    """Turns samples into examples and examples into batches, for one checkpoint and one prompt.

    What it cannot take of a sample is a `BadRecord`: `lab.training.screening` meets all of them before anything trains.
    Raises `ConfigError` if the prompt holds special tokens: the checkpoint's chat template alone may write them.
    """

    def __init__(self, vlm: Vlm, prompt: PromptDial, seed: int = 0, answers: AnswerSpace = TRUE_FALSE) -> None:
        self.architecture, self.config = vlm.family.architecture, vlm.bare.config
        self.processor = vlm.processor
        self.tokenizer = vlm.processor.tokenizer
        self.seed = seed
        self.family_boxes = vlm.family.boxes
        self.image_id = self.architecture.image_id(self.processor)
        self.clips = self.architecture.clips
        self.media_ids = (self.image_id, *([] if self.clips is None else [self.clips.placeholder(self.processor)[1]]))
        self.budget, self.reducer = vlm.budget, vlm.reducer
        self.untouched = vlm.reducer is None and vlm.conditioner is None
        self.prefix = self.architecture.in_prompt and (vlm.conditioner is None or vlm.conditioner.prefix)
        self.rule = self.architecture.positions(vlm)
        self.pad_id = self.tokenizer.pad_token_id
        self.inline = vlm.family.answers == "inline"
        self.labels = Labels(self.config) if vlm.family.answers == "classes" else None
        self.starts = self.architecture.start_id(self.config) if vlm.family.answers == "beside" else None
        self.positions_of_text = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        added = self.tokenizer.added_tokens_decoder
        self.special_ids = frozenset(added)
        self.marks = frozenset(number for number, token in added.items() if token.special)
        self.begin(prompt, answers)

    def begin(self, prompt: PromptDial, answers: AnswerSpace) -> None:
        """Encode from now on with a prompt, what is answered in a space."""
        self.prompt, self.frame = prompt, parse_template(prompt)
        self.answers = answers
        self.boxes = prompt.boxes or self.family_boxes
        self.framing: dict[Hashable, tuple[tuple[int, ...], ...]] = {}
        for key, text in written(prompt).items():
            if special := self.special(self.ids(text)):
                reason = f"{self.named(special)} of this checkpoint's tokenizer; only its chat template writes those"
                raise ConfigError(f"{key}={text!r}: {reason}.")

    def copy(self) -> Encoder:
        """The same with a processor of its own, for another thread: a tokenizer serves one at a time."""
        own = copy.copy(self)
        own.processor = copy.deepcopy(self.processor)
        own.tokenizer = own.processor.tokenizer
        return own

    def of_data(self, dial: DataDial, answers: AnswerSpace, prompt: str | None = None) -> Encoder:
        """That of other data (`lab.prompt.of_data`); this one where they are asked and answered as its own are."""
        chosen = of_data(dial, answers.kind, prompt, self.prompt, self.answers.kind)
        if chosen == self.prompt and answers == self.answers:
            return self
        other = copy.copy(self)
        vars(other).pop("readout", None)
        other.begin(chosen, answers)
        return other

    @cached_property
    def readout(self) -> AnyReadout:
        """How the answers to its prompts are read. Raises `ConfigError` for options that no token says."""
        return readout(self.labels or self.tokenizer, self.prompt, self.answers, self.architecture.lead(self.processor), self.boxes)

    def ids(self, text: str) -> list[int]:
        """Tokenise, without anything around it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def special(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Those that were added to the vocabulary to mean more than their letters (turns, images), in order."""
        return tuple(each for each in ids if each in self.special_ids)

    def named(self, ids: Sequence[int]) -> str:
        """Special tokens in words."""
        names = self.tokenizer.convert_ids_to_tokens(list(dict.fromkeys(ids)))
        return f"{', '.join(map(repr, names))} {'is a special token' if len(names) == 1 else 'are special tokens'}"

    def chat(self, sample: Sample, plain: bool = False) -> Chat:
        """A sample as messages. plain: without what stands for its clips and tiles, which the checkpoint's own processor writes by itself."""
        target = self.boxes_text(sample.answer) if isinstance(sample.answer, Regions) else None
        chat = to_chat(sample, self.prompt, self.seed, self.frame, target)
        written = [] if plain else [self.written(sample.images[i]) for i in chat.image_order]
        return with_written(chat, written) if any(written) else chat

    def resized(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) of a picture of such a size as the model is shown it; None where there is no such size."""
        return self.architecture.resized(self.processor, self.config, size)

    def boxes_text(self, answer: Regions) -> str:
        """The boxes of an answer as they are trained."""
        return regions.write(answer.regions, self.boxes, size=answer.size, resized=self.resized(answer.size))

    def framed(self, sample: Sample) -> Framed:
        """A sample as messages, texts and ids. Raises `BadRecord` for a conversation whose answer the chat template changes."""
        chat = self.chat(sample)
        try:
            prompt, answer = texts = self.architecture.frame(self.processor, chat, self.prompt.numbered)
        except ModelError as error:
            if sample.turns:
                raise BadRecord(f"sample {sample.sample_id}", str(error).removeprefix("model: ").rstrip(".")) from None
            raise
        if self.labels is not None:
            return Framed(chat, texts, self.ids(prompt), self.labels.taught(answer))
        return Framed(chat, texts, *self.architecture.ids(self.processor, prompt, answer))

    def check_text(self, sample: Sample, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Raise a `BadRecord` if the sample's text or answer writes special tokens, or both are longer than the model has positions for.

        Special tokens are looked for in the whole prompt, where text may also form one with what stands beside it. They are not
        tokenised as plain letters, since whoever uses the exported model with its own processor would get the tokens. Those that a
        tokenizer does not itself call special (of thinking, of tools) are words of a conversation.
        """
        number = len(sample.images)
        turns, runs = wordless(sample.turns), tuple(map(self.runs, sample.images))
        if (runs, turns) not in self.framing:
            plain = self.framed(replace(sample, text="x", answer=Text(("x",)), turns=turns))
            self.framing[runs, turns] = self.special(plain.prompt), self.special(plain.answer if self.labels is None else ())
        pairs = ("text", sample.text, prompt), ("answer", sample.answer.text, answer if self.labels is None else ())
        framing = self.framing[runs, turns]
        if isinstance(sample.answer, Regions):
            framing = framing[0], self.check_boxes(sample, sample.answer, answer, len(framing[1])) + framing[1]
        for (what, said, ids), usual in zip(pairs, framing, strict=True):
            found = self.special(ids)
            if sample.turns:
                found, usual = (tuple(each for each in some if each in self.marks) for some in (found, usual))
            if found != usual:
                beyond = tuple((Counter(found) - Counter(usual)).elements()) or found
                reason = f"its {what} {shown(said)} must not hold special tokens: {self.named(beyond)} of this checkpoint's tokenizer"
                raise BadRecord(f"sample {sample.sample_id}", reason)
        length = sum(each not in self.media_ids for each in prompt)
        rows = {"prompt and answer are": length + len(answer)} if self.inline else {"prompt is": length, "answer is": len(answer)}
        for what, length in rows.items():
            if self.positions_of_text is not None and length > self.positions_of_text:
                reason = f"its {what} {length} tokens of text, and the model has {self.positions_of_text} positions"
                raise BadRecord(f"sample {sample.sample_id}", reason)
        if number < self.architecture.fewest_images:
            reason = f"it shows {number} images, and the model compares {self.architecture.fewest_images}"
            raise BadRecord(f"sample {sample.sample_id}", reason)
        if self.architecture.most_images is not None and number > self.architecture.most_images:
            reason = f"it shows {number} images, and the model takes {self.architecture.most_images} at once"
            raise BadRecord(f"sample {sample.sample_id}", reason)

    def check_boxes(self, sample: Sample, boxes: Regions, ids: Sequence[int], ends: int) -> tuple[int, ...]:
        """The special tokens that its boxes are written with, whatever their labels. ends: how many tokens end the answer.

        Raises a `BadRecord` for boxes of several pictures, and for labels that cannot be read back as they are written.
        """
        if len(sample.images) > 1:
            raise BadRecord(f"sample {sample.sample_id}", f"it shows {len(sample.images)} images, and its boxes are of one")
        plain = replace(boxes, regions=tuple(region._replace(label="x") for region in boxes.regions))
        special = self.special(self.ids(self.boxes_text(plain)))
        text = self.tokenizer.decode(list(ids[: len(ids) - ends]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        read = regions.read(text, self.boxes, size=boxes.size, resized=self.resized(boxes.size))
        labels = [region.label for region in read.regions or read.points]
        if labels != [region.label for region in boxes.regions] and self.special(ids[: len(ids) - ends]) == special:
            reason = f"its labels {shown(boxes.text)} are read back as {shown(', '.join(labels))}, written by prompt.boxes={self.boxes}"
            raise BadRecord(f"sample {sample.sample_id}", f"{reason} with this checkpoint's tokenizer")
        return special

    def text(self, sample: Sample) -> TokenizedPrompt:
        """Frame and tokenise. The answer ends with the end-of-turn token, which is trained too.

        Raises `BadRecord` as `check_text` does, and `ModelError` if the chat template does not write one placeholder for each image
        that stands in the prompt.
        """
        import numpy as np

        chat, texts, prompt, answer = self.framed(sample)
        self.check_text(sample, prompt, answer)
        prompt_ids = np.asarray(prompt, dtype=np.int64)
        placeholders = int(np.isin(prompt_ids, self.media_ids).sum())
        if self.architecture.in_prompt and placeholders != sum(self.runs(sample.images[i]) or 1 for i in chat.image_order):
            raise ModelError(
                f"model: the chat template wrote {placeholders} image placeholders for {len(chat.image_order)} images "
                f"of sample {sample.sample_id}."
            )
        second = self.architecture.second_ids(self.processor, chat)
        learned = self.learned(sample, chat, texts, prompt_ids) if chat.learned else ()
        steps = tuple(self.sampled(shown).step if isinstance(shown := sample.images[i], Clip) else 0.0 for i in chat.image_order)
        return TokenizedPrompt(
            prompt_ids, np.asarray(answer, dtype=np.int64), chat.image_order, second, learned, steps if any(steps) else ()
        )

    def learned(self, sample: Sample, chat: Chat, texts: tuple[str, str], prompt_ids: np.ndarray) -> tuple[Span, ...]:
        """`TokenizedPrompt.learned`. Raises `BadRecord` where an earlier turn cannot be learned as it is asked for."""
        import numpy as np

        try:
            found = self.architecture.learned(self.processor, chat, self.prompt.numbered, *texts)
        except ValueError as error:
            raise BadRecord(f"sample {sample.sample_id}", str(error)) from None
        if any(np.isin(prompt_ids[start:stop], self.media_ids).any() for start, stop in found):
            raise BadRecord(f"sample {sample.sample_id}", "a turn of the assistant shows an image, and a model learns to write none")
        return found

    def check_learnable(self, sample: Sample) -> None:
        """Raise a `BadRecord` if nothing can be learned from the sample's answer: it is none of the labels chosen among."""
        if self.labels is not None and not self.labels.encode(answer := self.chat(sample).answer):
            number = len(self.labels.names)
            reason = f"its answer {shown(answer)} is none of the checkpoint's {number:,} labels, so nothing can be learned from it"
            raise BadRecord(f"sample {sample.sample_id}", reason)

    def coverage(self, samples: Sequence[Sample]) -> str | None:
        """How many of some questions have an answer among the labels chosen among; None where answers are written, or are not known."""
        answers = [one.answer.references for one in samples if isinstance(one.answer, Text) and any(one.answer.references)]
        if self.labels is None or not answers:
            return None
        number = sum(any(map(self.labels.encode, some)) for some in answers)
        return (
            f"the checkpoint chooses among {len(self.labels.names):,} labels, and {number:,} of {len(answers):,} dev questions have an answer "
            "among them; no other can be answered right"
        )

    def pixels(self, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """Run the image processor: pixels float32 and grid (t, h, w) in patches of each image."""
        return self.architecture.pixels(self.processor, self.config, images)

    def settings(self) -> dict[str, Any]:
        """What the image processor does, as plain values: part of the contract and of the feature cache's key."""
        return self.architecture.settings(self.processor)

    @cached_property
    def clip_settings(self) -> dict[str, Any] | None:
        """What the video processor does, as plain values; None where no video is taken."""
        return None if self.clips is None else self.clips.settings(self.processor)

    def merged(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """A patch grid as the projector's grid of tokens (h, w)."""
        return self.architecture.merged(self.config, grid)

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """How many tokens of an image of this patch grid the language model sees."""
        h, w = self.merged(grid)
        return h * w + self.architecture.beside_grid if self.reducer is None else self.reducer.count(h, w)

    def reduces(self, grid: tuple[int, int, int]) -> str | None:
        """How the tokens of an image of this patch grid are made fewer or others; None: they are left alone, bit for bit."""
        import torch

        h, w = self.merged(grid)
        trained = isinstance(self.reducer, torch.nn.Module)
        if self.reducer is None or (not trained and self.reducer.count(h, w) == h * w):
            return None
        rule = getattr(self.reducer, "rule", None)
        return type(self.reducer).__name__ + ("" if rule is None else f" {rule.value}")

    def sampled(self, clip: Clip) -> Sampled:
        """What is shown of a clip. Raises `BadRecord` for one that the processor does not take, `ModelError` where no video is."""
        if self.clips is None:
            raise ModelError(f"data: {clip.source} is a clip, and the model takes pictures alone. Choose a model of Qwen-VL.")
        if not self.untouched:
            raise ModelError(
                f"data: {clip.source} is a clip, and only pictures are made fewer tokens of or attended to from beside. Choose "
                "vision_tokens=native (or resize) and conditioning=prefix."
            )
        return self.clips.sampled(self.processor, clip)

    def written(self, medium: Medium) -> str | None:
        """What stands in a prompt for a clip, or for a picture that is cut in tiles; None of others."""
        if not isinstance(medium, Clip):
            return self.architecture.written(self.processor, size_of(medium)) if self.architecture.tiled else None
        sampled = self.sampled(medium)
        assert self.clips is not None
        return self.clips.written(self.processor, sampled)

    def plain(self, medium: Medium, processor: Any) -> Any:
        """An image or a clip as the processor of Transformers alone takes it."""
        if isinstance(medium, Picture):
            return decode(medium)
        assert self.clips is not None
        return self.clips.frames(processor, medium, self.clips.sampled(processor, medium))

    def runs(self, medium: Medium) -> int:
        """How many runs of tokens a clip or a picture is in a prompt; 0 for one that its placeholder stands for."""
        if not isinstance(medium, Clip):
            return self.architecture.tiles(self.check(medium)) if self.architecture.tiled else 0
        return 0 if self.clips is None else self.clips.runs(self.sampled(medium).grid)

    def check(self, picture: Medium) -> tuple[int, int, int]:
        """The patch grid of an image of this size, or of a clip. Raises `BadRecord` if the processor does not take it, or a picture only at
        more tokens than `vision_tokens.budget`.
        """
        if isinstance(picture, Clip):
            return self.sampled(picture).grid
        size = size_of(picture)
        try:
            grid = self.architecture.grid(self.processor, self.config, size)
        except ValueError as error:
            reason = f"the checkpoint's image processor does not take its {size[0]} x {size[1]} pixels ({error})"
            raise BadRecord(picture.source, reason) from None
        if self.budget is not None and self.tokens(grid) > self.budget:
            reason = (
                f"vision_tokens.budget={self.budget}: the checkpoint's image processor makes {self.tokens(grid)} tokens of its "
                f"{size[0]} x {size[1]} pixels whatever it is told; ask for at least so many, or choose another vision_tokens option"
            )
            raise BadRecord(picture.source, reason)
        return grid

    def shortened(self, sample: Sample, most: int) -> Sample:
        """A conversation without its last exchanges, as many as make it longer than so many tokens, its first never; others as they are.

        Whole turns go, so that no placeholder and no answer is cut, and what remains ends with an answer that is learned.
        """
        while sample.turns and (shorter := turns.without_last(sample)) is not None:
            text = self.text(sample)
            if self.length(text, [self.check(sample.images[place]) for place in text.image_order]) <= most:
                break
            sample = shorter
        return sample

    def length(self, text: TokenizedPrompt, grids: Sequence[tuple[int, int, int]]) -> int:
        """Tokens of prompt and answer, with those of the images shown. grids: of each."""
        images = sum(map(self.tokens, grids)) if self.prefix else 0
        return self.words(text) + images + len(text.answer_ids)

    def check_length(self, sample_id: str, text: TokenizedPrompt, grids: Sequence[tuple[int, int, int]], most: int) -> None:
        """Raise a `BadRecord` if prompt and answer together are longer than `data.max_length`, which cuts neither."""
        if (length := self.length(text, grids)) > most:
            images = sum(map(self.tokens, grids)) if self.prefix else 0
            told = f"its prompt and answer are {length} tokens, {images} of them of images and {len(text.answer_ids)} of the answer"
            raise BadRecord(f"sample {sample_id}", f"{told}; data.max_length={most} cuts none of them off")

    def words(self, text: TokenizedPrompt) -> int:
        """How many tokens of a prompt stand for no image."""
        return sum(each not in self.media_ids for each in text.prompt_ids.tolist())

    def picture(self, picture: Medium) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Decode and process one image or clip. Raises `BadRecord` for one that `decode` or `check` refuses."""
        if isinstance(picture, Clip):
            sampled = self.sampled(picture)
            assert self.clips is not None
            return self.clips.pixels(self.processor, picture, sampled), sampled.grid
        image = decode(picture)
        self.check(replace(picture, crop=None, size=image.size))
        pixels, grids = self.pixels([image])
        return pixels[0], grids[0]

    def example(self, sample: Sample) -> Example:
        """Encode a sample with the pixels of its images."""
        text = self.text(sample)
        shown = [self.picture(sample.images[i]) for i in text.image_order]
        return Example(sample.sample_id, text, tuple(grid for _, grid in shown), pixels=tuple(p for p, _ in shown))

    def size(self, example: Example, answered: bool = False) -> ExampleSize:
        """How large an example is, without padding; answered: with its answer."""
        tokens = tuple(self.tokens(grid) for grid in example.grids)
        words = self.words(example.text)
        answer = len(example.text.answer_ids) if answered else 0
        predicted = len(labels_of(self, example)) if answered else 0
        length, rows = (words + answer, predicted + 1) if self.inline else (words, max(1, answer))
        return ExampleSize(length + (sum(tokens) if self.prefix else 0), example.grids, tokens, rows)

    def collate(
        self, examples: Sequence[Example], with_answers: bool, padding_side: str | None = None, align: int = ALIGN, learned: bool = False
    ) -> Batch:
        """`lab.model.batching.collate`."""
        return collate(self, examples, with_answers, padding_side or self.architecture.padding_side, align, learned)
