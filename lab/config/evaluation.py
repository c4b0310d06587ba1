"""The section `evaluation`: what is measured after training."""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.config.endpoint import Endpoint

MOST_TOKENS = {"text": 16, "regions": 512}
"""`evaluation.max_new_tokens` where it is None, by kind of answer."""


@dataclass
class EvaluationSection:
    """What is measured after training. Batch size and repeats never change a score, only its cost.

    ask: ways to answer dev, the first for the record; generate is held against it. also: other data options whose dev is asked, each
    with its own keys behind it (`lab.data.Option`). also_root: a folder with one for each benchmark among them, by its name; max_samples: of
    each at most so many questions, drawn by seed, the same for every arm; `lab.freezing` writes both into `also`.
    max_new_tokens: of an answer of the run's own kind, and of words beside a choice; None, and of others: `MOST_TOKENS`.
    repair: boxes with swapped corners or beyond the picture are mended before they are kept, as they are not by default.
    zero_shot: the base itself answers dev, once for all arms over it; None: where the data set says so.
    judge: a language model that marks replies to benchmarks beside the exact rule (`lab.judge`).
    shared_prefix: questions about the same images share what the model made of them; scores agree to rounding, not to the bit.
    """

    batch_size: int = 64
    shared_prefix: bool = False
    bootstrap: int = 2000
    latency_warmup: int = 5
    latency_examples: int = 50
    ask: list[str] = field(default_factory=lambda: ["score"])
    max_new_tokens: int | None = None
    repair: bool = False
    splits: list[str] = field(default_factory=lambda: ["minival", "dev"])
    also: list[str] = field(default_factory=list)
    also_root: str | None = None
    max_samples: int | None = None
    controls: list[str] = field(default_factory=list)
    swap: bool = False
    zero_shot: bool | None = None
    verify: bool = True
    probe_examples: int = 8
    judge: Endpoint = field(default_factory=Endpoint)

    def most_tokens(self, kind: str | None) -> int:
        """Tokens that a written answer may have, by kind; None: not known."""
        return self.max_new_tokens or MOST_TOKENS.get(kind or "text", MOST_TOKENS["text"])
