"""True/False statements about two scenes, by family.

A family is a named way of asking. The shipped tiny base is taught the families of `TAUGHT`; those of
`HELD_BACK`, which compare the two images, it never meets before fine-tuning. `propose` draws one statement
of a family; whether it holds is a function of what the two scenes contain, never of their pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lab.data.scenes import Kind, Palette, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five")
SIDES = ("left", "right")


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence and what makes it true: `holds(left, right)`. kinds: what it speaks of, in order of mention."""

    family: str
    text: str
    kinds: tuple[Kind, ...]
    holds: Callable[[Scene, Scene], bool]

    def mentions(self) -> list[int]:
        """Return where in `text` each kind is named: the index of the last letter of its singular."""
        found, start = [], 0
        for kind in self.kinds:
            start = self.text.index(kind.singular, start) + len(kind.singular)
            found.append(start - 1)
        return found


def article(phrase: str) -> str:
    """`a circle`, `an orange circle`."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def draw_kind(rng: np.random.Generator, palette: Palette) -> Kind:
    """Half of them colour and shape, a quarter colour alone, a quarter shape alone."""
    colour = palette.colours[int(rng.integers(len(palette.colours)))]
    shape = palette.shapes[int(rng.integers(len(palette.shapes)))]
    which = rng.random()
    if which < 0.5:
        return Kind(colour, shape)
    return Kind(colour, None) if which < 0.75 else Kind(None, shape)


def _countable(rng: np.random.Generator, palette: Palette) -> Kind:
    """A kind common enough to be counted: a shape or a colour."""
    if rng.random() < 0.5:
        return Kind(None, palette.shapes[int(rng.integers(len(palette.shapes)))])
    return Kind(palette.colours[int(rng.integers(len(palette.colours)))], None)


def _two_kinds(rng: np.random.Generator, palette: Palette, draw: Callable = draw_kind) -> tuple[Kind, Kind]:
    first = second = draw(rng, palette)
    while second == first:
        second = draw(rng, palette)
    return first, second


def _side(rng: np.random.Generator) -> int:
    return int(rng.integers(2))


def _one_image(rng: np.random.Generator, palette: Palette) -> Statement:
    kind, side = draw_kind(rng, palette), _side(rng)
    what, image = article(kind.singular), f"the {SIDES[side]} image"
    text = (f"The {SIDES[side]} image contains {what}.", f"There is {what} in {image}.")[int(rng.integers(2))]
    return Statement("one_image", text, (kind,), lambda *pair: pair[side].count(kind) > 0)


def _without(rng: np.random.Generator, palette: Palette) -> Statement:
    kind, side = draw_kind(rng, palette), _side(rng)
    text = (
        f"The {SIDES[side]} image contains no {kind.singular}.",
        f"There is no {kind.singular} in the {SIDES[side]} image.",
    )[int(rng.integers(2))]
    return Statement("without", text, (kind,), lambda *pair: pair[side].count(kind) == 0)


def _any_image(rng: np.random.Generator, palette: Palette) -> Statement:
    kind = draw_kind(rng, palette)
    what = article(kind.singular)
    text = (f"At least one image contains {what}.", f"There is {what} in at least one image.")[int(rng.integers(2))]
    return Statement("any_image", text, (kind,), lambda left, right: left.count(kind) + right.count(kind) > 0)


def _count(rng: np.random.Generator, palette: Palette) -> Statement:
    kind, side, number = _countable(rng, palette), _side(rng), int(rng.integers(1, 5))
    what = f"{NUMBERS[number]} {kind.singular if number == 1 else kind.plural}"
    least = rng.random() < 0.5
    text = f"The {SIDES[side]} image contains {'at least' if least else 'exactly'} {what}."
    if least:
        return Statement("count", text, (kind,), lambda *pair: pair[side].count(kind) >= number)
    return Statement("count", text, (kind,), lambda *pair: pair[side].count(kind) == number)


def _each_side(rng: np.random.Generator, palette: Palette) -> Statement:
    """Two different things, one for each image: the conjunction without the comparison."""
    first, second = _two_kinds(rng, palette)
    side = _side(rng)
    text = (
        f"The {SIDES[side]} image contains {article(first.singular)} and "
        f"the {SIDES[1 - side]} image contains {article(second.singular)}."
    )
    return Statement(
        "each_side",
        text,
        (first, second),
        lambda *pair: pair[side].count(first) > 0 and pair[1 - side].count(second) > 0,
    )


def _more_inside(rng: np.random.Generator, palette: Palette) -> Statement:
    first, second = _two_kinds(rng, palette, _countable)
    side = _side(rng)
    text = f"The {SIDES[side]} image contains more {first.plural} than {second.plural}."
    return Statement(
        "more_inside", text, (first, second), lambda *pair: pair[side].count(first) > pair[side].count(second)
    )


def _both(rng: np.random.Generator, palette: Palette) -> Statement:
    kind = draw_kind(rng, palette)
    what = article(kind.singular)
    text = (f"Both images contain {what}.", f"There is {what} in both images.")[int(rng.integers(2))]
    return Statement("both", text, (kind,), lambda left, right: left.count(kind) > 0 and right.count(kind) > 0)


def _neither(rng: np.random.Generator, palette: Palette) -> Statement:
    kind = draw_kind(rng, palette)
    text = f"Neither image contains {article(kind.singular)}."
    return Statement("neither", text, (kind,), lambda left, right: left.count(kind) + right.count(kind) == 0)


def _only_one_side(rng: np.random.Generator, palette: Palette) -> Statement:
    kind, side = draw_kind(rng, palette), _side(rng)
    text = f"Only the {SIDES[side]} image contains {article(kind.singular)}."
    return Statement(
        "only_one_side", text, (kind,), lambda *pair: pair[side].count(kind) > 0 and pair[1 - side].count(kind) == 0
    )


def _exactly_one(rng: np.random.Generator, palette: Palette) -> Statement:
    kind = draw_kind(rng, palette)
    text = f"Exactly one image contains {article(kind.singular)}."
    return Statement(
        "exactly_one", text, (kind,), lambda left, right: (left.count(kind) > 0) != (right.count(kind) > 0)
    )


def _more_across(rng: np.random.Generator, palette: Palette) -> Statement:
    kind, side = _countable(rng, palette), _side(rng)
    text = f"The {SIDES[side]} image contains more {kind.plural} than the {SIDES[1 - side]} image."
    return Statement("more_across", text, (kind,), lambda *pair: pair[side].count(kind) > pair[1 - side].count(kind))


def _same_number(rng: np.random.Generator, palette: Palette) -> Statement:
    kind = _countable(rng, palette)
    text = f"The two images contain the same number of {kind.plural}."
    return Statement("same_number", text, (kind,), lambda left, right: left.count(kind) == right.count(kind))


TAUGHT = {
    "one_image": _one_image,
    "without": _without,
    "any_image": _any_image,
    "each_side": _each_side,
    "count": _count,
    "more_inside": _more_inside,
}
HELD_BACK = {
    "both": _both,
    "neither": _neither,
    "only_one_side": _only_one_side,
    "exactly_one": _exactly_one,
    "more_across": _more_across,
    "same_number": _same_number,
}
FAMILIES = TAUGHT | HELD_BACK


def propose(rng: np.random.Generator, family: str, palette: Palette) -> Statement:
    """Draw one statement of a family in the words of a palette."""
    return FAMILIES[family](rng, palette)
