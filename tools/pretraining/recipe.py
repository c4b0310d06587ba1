"""How the tiny base is trained: every number that decides its weights."""

from __future__ import annotations

from dataclasses import dataclass

STREAM = 0x7B45E  # first word of every seed here; `lab.data.pairs` draws from another stream


@dataclass(frozen=True)
class Recipe:
    """Steps are optimizer steps; rates are the peaks of a cosine after a linear warm-up."""

    seed: int = 0
    grounding_steps: int = 280
    grounding_images: int = 48
    grounding_lr: float = 2e-3
    words_steps: int = 350
    words_pairs: int = 8
    words_branches: int = 24
    words_lr: float = 2e-3
    language_steps: int = 1200
    language_pairs: int = 6
    branches: int = 12
    language_lr: float = 1.5e-3
    caption_every: int = 3  # one step in so many also reads out each scene
    question_share: float = 0.25  # of statements put as "Is this true?"
    words_weight: float = 0.3  # in stage 3, of what stage 2 taught, beside the answers
    opening_share: float = 0.05  # of the language steps that ask of existence only
    weight_decay: float = 0.01
