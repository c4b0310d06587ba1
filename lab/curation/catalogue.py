"""A catalogue as every source gives it: products with a picture and attributes in English, and what was refused of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.data.faults import BadRecord
from lab.data.files import read_text
from lab.data.images import Tables
from lab.records import Picture

LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "README*")
"""Files of a download that may say under which licence it is, the likeliest first."""


@dataclass(frozen=True)
class Product:
    """One listing. name: unique in the catalogue; product: shared by listings of one product; attributes: texts by name, none empty."""

    name: str
    product: str
    picture: Picture
    attributes: Mapping[str, tuple[str, ...]]

    @property
    def metadata(self) -> str:
        """The attributes as a prompt and a page show them: a line each, values divided by commas."""
        return "\n".join(f"{name}: {', '.join(values)}" for name, values in self.attributes.items())


@dataclass(frozen=True)
class Refusal:
    """What was left out. reason: one of a few words that are counted; listing: `Product.name`; line: what the model wrote."""

    reason: str
    listing: str
    picture: str = ""
    question: str = ""
    answer: str = ""
    detail: str = ""
    line: str = ""

    @classmethod
    def of(cls, fault: BadRecord) -> Refusal:
        """A product that cannot be used; the fault's reason is `reason: detail`."""
        reason, _, detail = fault.reason.partition(": ")
        return cls(reason, fault.source, detail=detail)


@dataclass(frozen=True)
class Catalogue:
    """name: of the data, for its card. folder: of its licence. credit: whom its owners want named. tables: where pictures are in one."""

    name: str
    folder: Path
    products: Sequence[Product]
    refusals: Sequence[Refusal]
    credit: str = ""
    tables: Tables | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def licences(self) -> dict[str, str]:
        """The texts beside the catalogue that may hold its licence, by the name of the file; at most the first 4,000 characters."""
        places = [path for pattern in LICENCES for path in sorted(self.folder.glob(pattern)) if path.is_file()]
        texts: dict[str, str] = {}
        for path in places:
            try:
                texts[path.name] = read_text(path)[:4000].strip()
            except (OSError, ValueError) as error:
                texts[path.name] = f"(it cannot be read: {error})"
        return texts


def counts(refusals: Sequence[Refusal]) -> dict[str, int]:
    """How many there are of each reason, most first."""
    return dict(Counter(refusal.reason for refusal in refusals).most_common())
