"""A page as a list of blocks, rendered by `lab.report.markdown` and `lab.report.webpage`. All text is data and is escaped.

A text is a tuple of pieces: plain strings, `Mono` for what is typed or named by a machine, `Strong` for what must be seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class Mono(str):
    """Text shown in a fixed-width face."""


class Strong(str):
    """Text shown in bold."""


class Link(Mono):
    """A `Mono` that leads to `href` on the web page: a place on it, a path beside it, or an address."""

    href: str

    def __new__(cls, text: str, href: str) -> Link:
        link = super().__new__(cls, text)
        link.href = href
        return link


Text = str | tuple[str, ...]


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Lead:
    """The one sentence that a reader should take away."""

    text: Text


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Bullets:
    items: tuple[Text, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Warn:
    """A paragraph that must not be overlooked."""

    text: Text


@dataclass(frozen=True)
class Table:
    """`numeric` columns are set flush right.

    runs: of each row the identities of the runs it is about, by which a reader hides and finds it; () for a row about none.
    anchored: a `Link` to `#run-<identity>` leads to the row of that run.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""
    runs: tuple[tuple[str, ...], ...] = ()
    anchored: bool = False


@dataclass(frozen=True)
class Figure:
    """A PNG file and what it shows; `alt` is read to those who cannot see it. svgs: the same for a wide and for a narrow screen."""

    path: Path
    alt: str
    caption: str
    svgs: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What an arm answered to one question; right: 1, 0 or between; None: nobody knows. run: the identity of the arm's run."""

    arm: str
    text: str
    right: float | None
    run: str = ""

    @property
    def sign(self) -> str:
        """A mark that does not need a colour."""
        return "" if self.right is None else "✓" if self.right >= 1 else "◐" if self.right > 0 else "✗"

    @property
    def said(self) -> str:
        """`right`, `wrong` or `60 % right`."""
        return {"✓": "right", "✗": "wrong"}.get(self.sign, f"{100 * (self.right or 0):.0f} % right")


@dataclass(frozen=True)
class Case:
    """One question with its pictures (WebP), the reference (empty: nobody knows), and what every arm answered.

    turns: of a conversation, (role, what was said) of each message before the answer, the question the last of them; else ().
    """

    pictures: tuple[bytes, ...]
    question: Text
    reference: str
    answers: tuple[Answer, ...]
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Cases that the same arms answered; in Markdown a table without the pictures."""

    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Box:
    """A box on a picture, corners in its pixels. outcome: one of `OUTCOMES`. told: what is said to who points at it."""

    x0: float
    y0: float
    x1: float
    y1: float
    outcome: str
    label: str
    told: str


OUTCOMES = {
    "reference": "reference, found", "missed": "reference, missed", "true": "predicted, true", "false": "predicted, false", "predicted": "predicted",
}  # fmt: skip
"""How a box may stand to the others of its picture, in words; the last where no reference is known."""


@dataclass(frozen=True)
class BoxAnswer:
    """The boxes of one arm on a picture and what they come to in words. run: the identity of the arm's run."""

    arm: str
    run: str
    said: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class BoxCase:
    """One picture (WebP) of (width, height), in whose pixels boxes are, and the arms' answers side by side."""

    picture: bytes
    size: tuple[int, int]
    title: Text
    answers: tuple[BoxAnswer, ...]


@dataclass(frozen=True)
class BoxGallery:
    """Pictures with boxes drawn, which a reader filters by outcome and enlarges; in Markdown a table without the pictures."""

    cases: tuple[BoxCase, ...]


@dataclass(frozen=True)
class Stretch:
    """Tokens beside each other. face: `learned`, `special` (the chat template's own) or "". picture: WebP, of which they are the tokens."""

    text: str
    face: str = ""
    picture: bytes | None = None


@dataclass(frozen=True)
class Transcript:
    """A sample as a model reads it, token by token in order, and what of it is learned."""

    title: Text
    stretches: tuple[Stretch, ...]

    @property
    def marked(self) -> str:
        """Without a colour: what is learned between ⟦ and ⟧."""
        return "".join(f"⟦{one.text}⟧" if one.face == "learned" else one.text for one in self.stretches)


Block = Heading | Lead | Paragraph | Bullets | Code | Warn | Table | Figure | Gallery | BoxGallery | Transcript


def pieces(text: Text) -> Iterable[str]:
    """The pieces of a text."""
    return (text,) if isinstance(text, str) else text


def plain(text: Text) -> str:
    """The text without its faces, on one line."""
    return " ".join("".join(pieces(text)).split())
