"""Prompts of many samples: those that differ are tokenised in one call, and what says the same is framed, checked and tokenised once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from lab.data.faults import BadRecord
from lab.model.encoded import TokenizedPrompt
from lab.model.encoding import Encoder
from lab.records import Chat, Clip, Regions, Sample

TOGETHER = 64
"""Samples in one call: their images are held meanwhile."""
MOST_KNOWN = 50_000
"""Texts that are remembered at most."""


class PromptTokenizer:
    """Tokenises samples as `Encoder.text` does each. It remembers what it has seen, of which most questions of a data set are repetitions."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.known: dict[Hashable, TokenizedPrompt] = {}

    def texts(self, samples: Sequence[Sample]) -> list[TokenizedPrompt | BadRecord]:
        """The tokenised prompt of each, or why it is refused. Raises `ModelError` as `Encoder.text` does."""
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        chats = [self.chat(sample) for sample in samples]
        self.learn(samples, chats)
        return [self.text(sample, chat) for sample, chat in zip(samples, chats, strict=True)]

    def chat(self, sample: Sample) -> Chat | BadRecord:
        """The messages of a sample, or why there are none."""
        try:
            return self.encoder.chat(sample)
        except BadRecord as fault:
            return fault

    def learn(self, samples: Sequence[Sample], chats: Sequence[Chat | BadRecord]) -> None:
        """Tokenise together what is not known yet and may be said by several; what is refused stays unknown."""
        new: dict[Hashable, tuple[Sample, Chat, tuple[str, str]]] = {}
        for sample, chat in zip(samples, chats, strict=True):
            if isinstance(chat, BadRecord) or (what := self.said(sample, chat)) is None or what in self.known or what in new:
                continue
            try:
                new[what] = sample, chat, self.encoder.frame_of(sample, chat)
            except BadRecord:  # met again, and returned, by `text`
                continue
        ids = self.encoder.ids_of([texts for _, _, texts in new.values()])
        for (what, (sample, chat, texts)), pair in zip(new.items(), ids, strict=True):
            try:
                self.known[what] = self.encoder.tokenized(sample, chat, texts, *pair)
            except BadRecord:  # the same
                continue

    def text(self, sample: Sample, chat: Chat | BadRecord) -> TokenizedPrompt | BadRecord:
        """From what is known, or by itself."""
        if isinstance(chat, BadRecord):
            return chat
        known = self.known.get(self.said(sample, chat))
        try:
            return self.encoder.text(sample) if known is None else replace(known, image_order=chat.image_order)
        except BadRecord as fault:
            return fault

    def said(self, sample: Sample, chat: Chat) -> Hashable:
        """All that ids and checks of a prompt depend on; None where it is the sample's own: times of clips, sizes of boxes."""
        if isinstance(sample.answer, Regions) or any(isinstance(medium, Clip) for medium in sample.images):
            return None
        runs = tuple(map(self.encoder.runs, sample.images))
        shown = tuple(runs[place] for place in chat.image_order)
        return repr(chat.messages), chat.answer, chat.learned, chat.interleaved, runs, shown
