"""How an answer is read from what a model computes: the torch half of `lab.answers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.answers import choice
from lab.config import PromptDial
from lab.errors import ConfigError
from lab.records import Choice

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Readout:
    """Reads a `Choice` from the logits of one position, or from a text.

    words: how the prompt writes the options. ids: of each option, the tokens whose probability counts for it; spellings: what
    these tokens write. first: the first token of each option as it is trained.
    """

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    spellings: tuple[tuple[str, ...], ...]
    first: tuple[int, ...]
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

    def read(self, text: str) -> int | None:
        """The place of the option that a text is; None if it is none."""
        return choice.read(text, self.words)

    def describe(self) -> dict[str, Any]:
        """For the contract, as plain values."""
        return {"kind": self.kind, "options": [list(spellings) for spellings in self.spellings]}


def readout(tokenizer: PreTrainedTokenizerBase, dial: PromptDial) -> Readout:
    """Find the single-token spellings of the answer words; the sets are disjoint and not empty.

    Raises `ConfigError` when a word has no spelling that is one token, or when two words share one.
    """
    words = dial.words
    singles = []
    for key, word in words.items():
        encoded = {text: tokenizer.encode(text, add_special_tokens=False) for text in choice.spellings(word)}
        single = {text: ids[0] for text, ids in encoded.items() if len(ids) == 1}
        if word not in single:
            raise ConfigError(
                f"{key}={word!r}: this checkpoint's tokenizer writes it as {len(encoded[word])} tokens, so it cannot be "
                "scored from one forward pass. Choose a word that is one token, such as 'Yes'."
            )
        singles.append(single)
    shared = set.intersection(*(set(single.values()) for single in singles))
    if shared:
        raise ConfigError(f"{' and '.join(words)} share the tokens {sorted(shared)}: choose other words.")
    ids = tuple(tuple(dict.fromkeys(single.values())) for single in singles)
    first = tuple(single[word] for single, word in zip(singles, words.values(), strict=True))
    return Readout(tuple(words.values()), ids, tuple(map(tuple, singles)), first)
