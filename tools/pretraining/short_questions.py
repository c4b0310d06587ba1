"""Questions with short answers about one picture: colour, shape, yes or no, and boxes.

An answer is lower case without a full stop: `teal`, `rectangle`, `yes`. A box is written as Qwen2-VL writes it, in
thousandths of the picture's width and height, several one after the other in reading order, and `none` if there is none:

    <|object_ref_start|>red circle<|object_ref_end|><|box_start|>(125,250),(375,500)<|box_end|>
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lab.data.statements import article
from tools.pretraining.pictures import COLOURS, SHAPES, Figure, Picture

NOUNS = ("figure", "object", "thing", "shape")
COLOUR = (
    "Which colour has the {kind}?",
    "Which color does the {kind} have?",
    "what colour does this {kind} have?",
    "Name the color of the {kind}.",
    "The {kind} has which colour?",
    "tell the color of the {kind}",
    "What is the colour of the {kind} here?",
    "What color has the {kind}?",
    "In which color is the {kind} drawn?",
)
SHAPE = (
    "Which shape has the {kind}?",
    "What shape does the {kind} have?",
    "what shape is the {kind}?",
    "Name the shape of the {kind}.",
    "The {kind} has which shape?",
    "Which form does the {kind} have?",
    "The {kind} is what?",
    "what is this {kind}?",
)
ONLY_SHAPE = (
    "What shape is shown?",
    "Which shape can be seen?",
    "which shape does the picture show?",
    "What is drawn here?",
    "Name the shape in this picture.",
    "What shape do you see?",
    "which figure is in the picture?",
    "Is it a circle, a triangle or what?",
)
PRESENT = (
    "Does {a kind} appear?",
    "Can you see {a kind}?",
    "Is {a kind} visible?",
    "do you see {a kind} here?",
    "Does the picture show {a kind}?",
    "does this image have {a kind}?",
    "Is there {a kind} in the picture?",
    "is there any {kind}?",
    "Is {a kind} drawn?",
    "Is {a kind} in this image?",
    "Are there any {kinds}?",
)
ABSENT = (
    "Is the picture free of {kinds}?",
    "Is {a kind} missing?",
    "is {a kind} absent?",
    "Does no {kind} appear?",
    "Can you see no {kind}?",
    "Does the picture show no {kind}?",
    "is there no {kind}?",
    "Is no {kind} visible?",
    "Is {a kind} not visible?",
    "does {a kind} not appear?",
    "Does the picture not show {a kind}?",
    "does this image not have {a kind}?",
    "Is there not {a kind} in the picture?",
    "Is no {kind} to be seen?",
    "Are there no {kinds}?",
)
WHERE = (
    "Where is the {kind}?",
    "where is the {kind}?",
    "Locate the {kind}.",
    "Find the {kind}.",
    "Box the {kind}.",
    "Give the box of the {kind}.",
    "Draw a box around the {kind}.",
)
EVERY = ("Box all {kinds}.", "Find all {kinds}.", "Where are the {kinds}?", "Locate every {kind}.", "Give the boxes of all {kinds}.")
FRAMES = (
    "{question}\nAnswer with a word or a short phrase.",
    "{question}",
    "{question} Answer with one word.",
    "Question: {question} Answer:",
    "{question}\nAnswer in short.",
)
FRAME_SHARES = (0.4, 0.3, 0.1, 0.1, 0.1)
NONE = "none"


def boxes_text(figures: Sequence[Figure], size: tuple[int, int]) -> str:
    """Write the boxes of figures, in the order given."""
    texts = []
    for figure in figures:
        x0, y0, x1, y1 = figure.thousandths(size)
        texts.append(f"<|object_ref_start|>{figure.name}<|object_ref_end|><|box_start|>({x0},{y0}),({x1},{y1})<|box_end|>")
    return "".join(texts) or NONE


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def fits(figure: Figure, colour: str | None, shape: str | None) -> bool:
    return colour in (None, figure.colour) and shape in (None, figure.shape)


def in_order(picture: Picture, colour: str | None, shape: str | None) -> list[Figure]:
    """The figures of a kind in reading order."""
    return sorted((figure for figure in picture.figures if fits(figure, colour, shape)), key=lambda figure: (figure.box[1], figure.box[0]))


def kind_name(rng: np.random.Generator, colour: str | None, shape: str | None) -> str:
    return " ".join(word for word in (colour, shape or _pick(rng, NOUNS)) if word)


def fill(form: str, name: str) -> str:
    """Put a kind into a form, as `{kind}`, `{a kind}` or `{kinds}`."""
    return form.replace("{kind}", name).replace("{a kind}", article(name)).replace("{kinds}", f"{name}s")


Asked = tuple[str, str, tuple[str, str | None, str | None] | None]  # question, answer, (name, colour, shape) or None


def ask_colour(rng: np.random.Generator, picture: Picture) -> Asked | None:
    """Ask for the colour of the only figure, or of the only one of a shape."""
    figure = picture.figures[int(rng.integers(len(picture.figures)))]
    shape = None if len(picture.figures) == 1 and rng.random() < 0.5 else figure.shape
    if sum(fits(other, None, shape) for other in picture.figures) > 1:
        return None
    name = kind_name(rng, None, shape)
    return fill(_pick(rng, COLOUR), name), figure.colour, (name, None, shape)


def ask_shape(rng: np.random.Generator, picture: Picture) -> Asked | None:
    """Ask for the shape of the only figure, or of the only one of a colour."""
    figure = picture.figures[int(rng.integers(len(picture.figures)))]
    if len(picture.figures) == 1 and rng.random() < 0.4:
        return _pick(rng, ONLY_SHAPE), figure.shape, None
    colour = None if len(picture.figures) == 1 and rng.random() < 0.3 else figure.colour
    if sum(fits(other, colour, None) for other in picture.figures) > 1:
        return None
    name = kind_name(rng, colour, None)
    return fill(_pick(rng, SHAPE), name), figure.shape, (name, colour, None)


def draw_kind(rng: np.random.Generator, picture: Picture, present: bool, both: float = 0.3) -> tuple[str | None, str | None] | None:
    """Draw a kind that the picture shows or does not; an absent one is near to a present one half the time."""
    figure = picture.figures[int(rng.integers(len(picture.figures)))]
    colour: str | None = figure.colour
    shape: str | None = figure.shape
    if not present:
        near = rng.random()
        if near > 0.3:
            colour = _pick(rng, COLOURS)
        if near < 0.3 or near > 0.6:
            shape = _pick(rng, SHAPES)
    which = rng.random()
    if which > both:
        colour, shape = (colour, None) if which < (1 + both) / 2 else (None, shape)
    if any(fits(other, colour, shape) for other in picture.figures) != present:
        return None
    return colour, shape


def ask_whether(rng: np.random.Generator, picture: Picture) -> Asked | None:
    """Ask whether a kind is there, or is not."""
    present, denied = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    kind = draw_kind(rng, picture, present)
    if kind is None:
        return None
    name = kind_name(rng, *kind)
    return fill(_pick(rng, ABSENT if denied else PRESENT), name), "yes" if present != denied else "no", (name, *kind)


def ask_where(rng: np.random.Generator, picture: Picture, every: float = 0.25) -> Asked | None:
    """Ask for the box of one figure (one time in eight of none), or, in a share `every`, for all boxes."""
    if rng.random() < every:
        colour, shape = [(None, None), (None, None), *[draw_kind(rng, picture, True, 0.0) or (None, None)]][int(rng.integers(3))]
        name = kind_name(rng, colour, shape)
        return fill(_pick(rng, EVERY), name), boxes_text(in_order(picture, colour, shape), picture.size), (name, colour, shape)
    kind = draw_kind(rng, picture, bool(rng.random() < 0.85), 0.5)
    if kind is None:
        return None
    held = in_order(picture, *kind)
    if len(held) > 1:
        return None
    name = kind_name(rng, *kind)
    return fill(_pick(rng, WHERE), name), boxes_text(held, picture.size), (name, *kind)


ASKED = {ask_whether: 0.45, ask_colour: 0.17, ask_shape: 0.17, ask_where: 0.21}


def ask(rng: np.random.Generator, picture: Picture, boxes: bool = True) -> Asked:
    """Draw one framed question, its answer and the kind that it names; boxes: also ask for those."""
    ways = [way for way in ASKED if boxes or way is not ask_where]
    shares = np.array([ASKED[way] for way in ways])
    asked = None
    while asked is None:
        way = ways[int(rng.choice(len(ways), p=shares / shares.sum()))]
        asked = way(rng, picture)
    question, answer, name = asked
    frame = FRAMES[int(rng.choice(len(FRAMES), p=FRAME_SHARES))]
    if way is ask_where:
        frame = FRAMES[1]
    return frame.format(question=question), answer, name
