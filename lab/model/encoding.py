"""`Sample -> Example`: the checkpoint's own chat template, tokenizer and image processor; then a batch (`lab.model.batching`).

A prompt is tokenised once with one placeholder an image that stands in it; the placeholder is then repeated as often as the image
costs tokens. The result equals the processor's own call (tests/test_encoding.py) and serves every token budget.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from lab.answers import regions
from lab.config import DataDial, PromptDial
from lab.data.faults import BadRecord, shown
from lab.errors import ConfigError, ModelError
from lab.model import turns
from lab.model.answers import AnyReadout, readout
from lab.model.batching import ALIGN, collate, is_one_of, labels_of
from lab.model.encoded import Example, Framed, TokenizedPrompt
from lab.model.labels import Labels
from lab.model.media_encoding import MediaEncoder
from lab.model.text_checks import check_text
from lab.model.token_ids import tokenized
from lab.model.turns import Span
from lab.model.vlm import Vlm
from lab.prompt import of_data, parse_template, to_chat, written
from lab.records import TRUE_FALSE, AnswerSpace, Batch, Chat, Clip, ExampleSize, Regions, Sample, Text

if TYPE_CHECKING:
    import numpy as np


def with_written(chat: Chat, written: Sequence[str | None]) -> Chat:
    """The chat that says of each picture or clip in order what stands for it in the prompt's text, where that is more than a placeholder."""
    behind = iter(written)
    marked = []
    for message in chat.messages:
        found = [(part, None if part["type"] == "text" else next(behind)) for part in message["content"]]
        marked.append({**message, "content": [part if text is None else part | {"written": text} for part, text in found]})
    return replace(chat, messages=tuple(marked))


class Encoder(MediaEncoder):
    """Turns samples into examples and examples into batches, for one checkpoint and one prompt.

    What it cannot take of a sample is a `BadRecord`: `lab.training.screening` meets all of them before anything trains.
    Raises `ConfigError` if the prompt holds special tokens: the checkpoint's chat template alone may write them.
    """

    def __init__(self, vlm: Vlm, prompt: PromptDial, seed: int = 0, answers: AnswerSpace = TRUE_FALSE) -> None:
        super().__init__(vlm)
        self.seed = seed
        self.family_boxes = vlm.family.boxes
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

    def boxes_text(self, answer: Regions) -> str:
        """The boxes of an answer as they are trained."""
        return regions.write(answer.regions, self.boxes, size=answer.size, resized=self.resized(answer.size))

    def framed(self, sample: Sample) -> Framed:
        """A sample as messages, texts and ids. Raises `BadRecord` for a conversation whose answer the chat template changes."""
        chat = self.chat(sample)
        texts = self.frame_of(sample, chat)
        [(prompt, answer)] = self.ids_of([texts])
        return Framed(chat, texts, prompt, answer)

    def frame_of(self, sample: Sample, chat: Chat) -> tuple[str, str]:
        """The texts of prompt and answer. Raises `BadRecord` as `framed` does."""
        try:
            return self.architecture.frame(self.processor, chat, self.prompt.numbered)
        except ModelError as error:
            if sample.turns:
                raise BadRecord(f"sample {sample.sample_id}", str(error).removeprefix("model: ").rstrip(".")) from None
            raise

    def ids_of(self, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """The ids of several prompts, each with its answer, tokenised in one call."""
        if self.labels is None:
            return self.architecture.ids(self.processor, texts)
        prompts = tokenized(self.tokenizer, [prompt for prompt, _ in texts])
        return [(ids, self.labels.taught(answer)) for ids, (_, answer) in zip(prompts, texts, strict=True)]

    def text(self, sample: Sample) -> TokenizedPrompt:
        """Frame and tokenise. The answer ends with the end-of-turn token, which is trained too.

        Raises `BadRecord` as `check_text` does, and `ModelError` if the chat template does not write one placeholder for each image
        that stands in the prompt.
        """
        return self.tokenized(sample, *self.framed(sample))

    def tokenized(
        self, sample: Sample, chat: Chat, texts: tuple[str, str], prompt: Sequence[int], answer: Sequence[int]
    ) -> TokenizedPrompt:
        """What `framed` makes of a sample as a tokenised prompt, checked. Raises as `text` does."""
        import numpy as np

        check_text(self, sample, prompt, answer)
        prompt_ids = np.asarray(prompt, dtype=np.int64)
        placeholders = int(is_one_of(prompt_ids, self.media_ids).sum())
        if self.architecture.in_prompt and placeholders != sum(self.runs(sample.images[i]) or 1 for i in chat.image_order):
            raise ModelError(
                f"model: the chat template wrote {placeholders} image placeholders for {len(chat.image_order)} images "
                f"of sample {sample.sample_id}."
            )
        second = self.architecture.second_ids(self.processor, chat)
        learned = self.learned(sample, chat, texts, prompt_ids) if chat.learned else ()
        steps = tuple(self.sampled(shown).step if isinstance(shown := sample.images[i], Clip) else 0.0 for i in chat.image_order)
        return TokenizedPrompt(
            prompt_ids, np.asarray(answer, dtype=np.int64), chat.image_order, second, learned, steps if any(steps) else (),
            () if self.labels is None else self.labels.shares(sample.answer),
        )

    def learned(self, sample: Sample, chat: Chat, texts: tuple[str, str], prompt_ids: np.ndarray) -> tuple[Span, ...]:
        """`TokenizedPrompt.learned`. Raises `BadRecord` where an earlier turn cannot be learned as it is asked for."""
        try:
            found = self.architecture.learned(self.processor, chat, self.prompt.numbered, *texts)
        except ValueError as error:
            raise BadRecord(f"sample {sample.sample_id}", str(error)) from None
        if any(is_one_of(prompt_ids[start:stop], self.media_ids).any() for start, stop in found):
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
