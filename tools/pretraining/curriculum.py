"""What the language model is taught: names, statements with their truth, and captions. Taught families only."""

from __future__ import annotations

import numpy as np

from lab.data.scenes import PALETTES, Kind, Scene
from lab.data.statements import SIDES, TAUGHT, article, draw_kind, propose
from tools.pretraining.recipe import Recipe
from tools.pretraining.sequence_packing import Branch
from tools.pretraining.vocabulary import CAPTION, DECLARATIVE, QUESTION

OPENING = {"one_image": 0.7, "without": 0.15, "any_image": 0.15}
LATER = {"one_image": 0.2, "without": 0.12, "any_image": 0.15, "each_side": 0.23, "count": 0.17, "more_inside": 0.13}
assert set(LATER) == set(TAUGHT)

TURN = "<|im_end|>\n<|im_start|>assistant\n"  # what the chat template puts between the two turns


Pair = tuple[Scene, Scene]


def name(rng: np.random.Generator, palette: str, pair: Pair) -> Branch:
    """Name a kind, with nothing to answer: ` a red circle`, ` squares`."""
    kind = draw_kind(rng, PALETTES[palette])
    text = f" {article(kind.singular)}" if rng.random() < 0.7 else f" {kind.plural}"
    return Branch(text, None, ((text.index(kind.singular) + len(kind.singular) - 1, kind, _held_by(kind, pair)),))


def ask(
    rng: np.random.Generator, recipe: Recipe, palette: str, pair: Pair, weights: dict[str, float]
) -> Branch:
    """Ask whether a statement is true, as `prompt=declarative` or `prompt=qa` does.

    True and false are made equally likely by trying again.
    """
    names = list(weights)
    family = names[int(rng.choice(len(names), p=list(weights.values())))]
    wanted = bool(rng.random() < 0.5)
    for _ in range(40):
        statement = propose(rng, family, PALETTES[palette])
        if statement.holds(*pair) == wanted:
            break
    form, words = DECLARATIVE, ("False", "True")
    if rng.random() < recipe.question_share:
        form, words = QUESTION, ("No", "Yes")
    start = form.index("{statement}")
    names = tuple(
        (start + letter, kind, _held_by(kind, pair))
        for letter, kind in zip(statement.mentions(), statement.kinds, strict=True)
    )
    return Branch(form.format(statement=statement.text) + TURN, words[statement.holds(*pair)], names)


def caption(rng: np.random.Generator, pair: Pair) -> Branch:
    """Ask for one image's contents; the answer names its things in reading order."""
    side = int(rng.integers(2))
    named = ", ".join(article(f"{thing.colour} {thing.shape}") for thing in pair[side].cells() if thing is not None)
    return Branch(CAPTION.format(side=SIDES[side]) + TURN, named[0].upper() + named[1:] + ".")


def _held_by(kind: Kind, pair: Pair) -> tuple[bool, ...]:
    """Which of the 32 cells of both images hold such a thing."""
    return tuple(thing is not None and kind.fits(thing) for scene in pair for thing in scene.cells())
