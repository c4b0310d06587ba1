"""How the tiny base is trained: every number that decides its weights."""

from __future__ import annotations

from dataclasses import dataclass

STREAM = 0x7B45E  # first word of every seed here; `lab.data.sets.pairs` draws from another stream


@dataclass(frozen=True)
class Round:
    """A pass of stage 5 with a warm-up and a cosine of its own.

    first: the number that its first step is drawn by. names_until, boxes_from: numbers of the steps up to which names alone
    are taught and from which boxes are asked for. whether: what is known before a yes or no is taught by itself.
    """

    steps: int
    first: int
    names_until: int
    boxes_from: int
    whether: bool


@dataclass(frozen=True)
class BoxRound:
    """A pass of stage 6 with a warm-up and a fall of its own.

    first: the number that its first step is drawn by. names: named beside the questions. weight: of each token of a box that is no digit.
    """

    steps: int
    first: int
    names: int
    weight: float


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
    figures_steps: int = 520
    figures_pictures: int = 36
    figures_scenes: int = 12
    figures_lr: float = 2e-3
    other_sizes: float = 0.15  # share of steps of pictures that are not 64 x 64
    short_rounds: tuple[Round, ...] = (Round(620, 0, 120, 434, False), Round(600, 1000, 1000, 1350, True))
    short_pictures: int = 8
    short_branches: int = 6
    short_names: int = 6  # named beside the questions; three times as many where names alone are taught
    short_lr: float = 1.5e-3
    short_pairs_every: int = 4  # one step in so many also goes on with statements
    names_weight: float = 0.3
    boxes_weight: float = 0.1  # of each token of a box, beside those of a word
    boxes_rounds: tuple[BoxRound, ...] = (BoxRound(700, 0, 2, 0.3), BoxRound(366, 1000, 1, 1.0))
    boxes_lr: float = 1e-3
    boxes_pictures: int = 6
    boxes_questions: int = 2
    boxes_asked: int = 3
    boxes_every: float = 0.35  # of questions for boxes: for all of a kind
    boxes_alike: float = 0.2  # of pictures: all figures of one colour and shape
    edges_weight: float = 1.0  # of each step of the thought, beside the answers
    boxes_pairs_every: int = 6  # one step in so many also goes on with statements
    boxes_first_statement: int = 2000  # the number that those of its first step are drawn by, after stage 3's
    weight_decay: float = 0.01
