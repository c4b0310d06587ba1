"""How an answer is read from what a model computes: the torch half of `lab.answers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.answers import choice
from lab.config import PromptDial
from lab.errors import ConfigError
from lab.model.labels import Labels
from lab.records import TRUE_FALSE, AnswerSpace, Choice, Regions, Text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

@dataclass(frozen=True)
class Readout:
    """Reads a `Choice` from the logits of one position, or from a text.

    words: how the options are written. ids: of each option, the tokens whose probability counts for it; spellings: what
    these tokens write. first: the first token of each option as it is trained. options: as the data name them.
    """

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    spellings: tuple[tuple[str, ...], ...]
    first: tuple[int, ...]
    options: tuple[str, ...] = Choice.truth(True).options
    kind: str = Choice.kind

    def log_p(self, logits: torch.Tensor) -> torch.Tensor:
        """Log of the probability mass of each option, float32 [B, options], from logits [B, vocabulary].

        log p_A = logsumexp over the spellings A of log_softmax(logits). With two options P(first) = p_0 / (p_0 + p_1), and the
        sum of all is the captured mass.
        """
        import torch

        log_p = logits.float().log_softmax(dim=-1)
        return torch.stack([log_p[:, list(ids)].logsumexp(dim=-1) for ids in self.ids], dim=1)

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """Places of the likeliest options, int64 [B]; of equal ones the first."""
        return self.log_p(logits).argmax(dim=1)

    def read(self, text: str, options: Sequence[str] | None = None) -> int | None:
        """The place, among those of a question (all without), of the option that a text is; None if it is none."""
        place = choice.read(text, self.words)
        return place if place is None or options is None else {self.options.index(one): i for i, one in enumerate(options)}.get(place)

    def of(self, values: Sequence[float], options: Sequence[str]) -> list[float]:
        """The values of a question's options, of those of all."""
        return [values[self.options.index(option)] for option in options]

    def describe(self) -> dict[str, Any]:
        """For the contract, as plain values."""
        return {"kind": self.kind, "options": [list(spellings) for spellings in self.spellings]}


@dataclass(frozen=True)
class TextReadout:
    """Reads a `Text`: it is what was written. post: the rule by which a table will read it."""

    post: str
    kind: str = Text.kind

    def describe(self) -> dict[str, Any]:
        """For the contract, as plain values."""
        return {"kind": self.kind, "post": self.post}


@dataclass(frozen=True)
class RegionsReadout:
    """Reads `Regions` from what was written. boxes: of `lab.answers.box_formats`. aliases: as of `AnswerSpace`."""

    boxes: str
    aliases: tuple[tuple[str, str], ...] = ()
    kind: str = Regions.kind

    def describe(self) -> dict[str, Any]:
        """For the contract, as plain values."""
        return {"kind": self.kind, "boxes": self.boxes} | ({"aliases": dict(self.aliases)} if self.aliases else {})


AnyReadout = Readout | TextReadout | RegionsReadout


def readout(
    tokenizer: PreTrainedTokenizerBase | Labels, dial: PromptDial, answers: AnswerSpace = TRUE_FALSE, lead: str = "",
    boxes: str = "json",
) -> AnyReadout:
    """How answers are read: as one of the options that the data have, or as text or boxes where they have none.

    lead: what stands between a prompt and its answer (`Architecture.lead`). boxes: the format of boxes.
    """
    if answers.kind == Regions.kind:
        return RegionsReadout(boxes, answers.aliases)
    return choice_readout(tokenizer, dial, answers.options, lead) if answers.options else TextReadout(dial.post)


def choice_readout(tokenizer: PreTrainedTokenizerBase | Labels, dial: PromptDial, options: Sequence[str], lead: str = "") -> Readout:
    """Find the single-token spellings of the options; the sets are disjoint and not empty. lead: as of `readout`.

    Raises `ConfigError` when an option has no spelling that is one token, or when two share one.
    """
    words = choice.words(tuple(options), dial)
    advice = "Choose a word that is one token, such as 'Yes'." if words == dial.words else "data.kind=text has it written instead."
    singles = []
    for key, word in words.items():
        encoded = {text: tokenizer.encode(text, add_special_tokens=False) for text in choice.spellings(word)}
        single = {text: ids[0] for text, ids in encoded.items() if len(ids) == 1}
        if lead + word in single:
            single[word] = single[lead + word]  # as it is taught
        if word not in single:
            why = f"this checkpoint's tokenizer writes it as {len(encoded[word])} tokens, so it cannot be scored from one forward pass"
            if isinstance(tokenizer, Labels):
                names = tokenizer.names
                why = f"it is none of the {len(names):,} labels that this checkpoint chooses among, such as {names[0]!r}"
            raise ConfigError(f"{key}={word!r}: {why}. {advice}")
        singles.append(single)
    times = Counter(token for single in singles for token in set(single.values()))
    if shared := sorted(token for token, number in times.items() if number > 1):
        raise ConfigError(f"{' and '.join(words)} share the tokens {shared}: choose other words. {advice}")
    ids = tuple(tuple(dict.fromkeys(single.values())) for single in singles)
    first = tuple(single[word] for single, word in zip(singles, words.values(), strict=True))
    return Readout(tuple(words.values()), ids, tuple(map(tuple, singles)), first, tuple(options))
