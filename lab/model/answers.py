"""Reading True or False from the logits of one position (definitions: docstring of `log_masses`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.config import PromptDial
from lab.errors import ConfigError
from lab.prompt import spellings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids whose probability counts for each answer, and the spellings they stand for."""

    true_ids: tuple[int, ...]
    false_ids: tuple[int, ...]
    true_spellings: tuple[str, ...]
    false_spellings: tuple[str, ...]


def answer_tokens(tokenizer: PreTrainedTokenizerBase, dial: PromptDial) -> AnswerTokens:
    """Find the single-token spellings of both answer words; the two sets are disjoint and not empty.

    Raises `ConfigError` when a word has no spelling that is one token, or when both words share one.
    """
    found = []
    for key, word in (("prompt.answer_true", dial.answer_true), ("prompt.answer_false", dial.answer_false)):
        encoded = {text: tokenizer.encode(text, add_special_tokens=False) for text in spellings(word)}
        single = {text: ids[0] for text, ids in encoded.items() if len(ids) == 1}
        if word not in single:
            raise ConfigError(
                f"{key}={word!r}: this checkpoint's tokenizer writes it as {len(encoded[word])} tokens, so it cannot be "
                "scored from one forward pass. Choose a word that is one token, such as 'Yes'."
            )
        found.append(single)
    true, false = found
    shared = set(true.values()) & set(false.values())
    if shared:
        raise ConfigError(f"prompt.answer_true and prompt.answer_false share the tokens {sorted(shared)}: choose other words.")
    ids = [tuple(dict.fromkeys(single.values())) for single in found]
    return AnswerTokens(ids[0], ids[1], tuple(true), tuple(false))


def log_masses(logits: torch.Tensor, tokens: AnswerTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Log of the probability mass of each answer, float32 [B] and [B], from logits [B, vocabulary].

    log p_A = logsumexp over the spellings A of log_softmax(logits). P(True) = p_T / (p_T + p_F), and
    p_T + p_F is the captured mass.
    """
    log_p = logits.float().log_softmax(dim=-1)
    true = log_p[:, list(tokens.true_ids)].logsumexp(dim=-1)
    false = log_p[:, list(tokens.false_ids)].logsumexp(dim=-1)
    return true, false
