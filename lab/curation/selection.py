"""Which products are asked about, and which part each is in: settled before anything is paid for.

Each picture is used once, told apart by its pixels. Listings of one product, and products with one picture, are in one part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab import data, paths
from lab.curation import likeness
from lab.curation.catalogue import Catalogue, Product, Refusal
from lab.curation.config import Curation
from lab.curation.likeness import Likeness
from lab.data import images
from lab.data.question_file import unanswered
from lab.data.question_file.parts import draw, joined
from lab.data.verified import Decoded
from lab.errors import ConfigError, DataError, did_you_mean
from lab.host.progress import Report
from lab.records import Picture

SPLITS = {"dev": "test", "minival": "validation", "train": "train"}
"""What `curation.split` divides, as `lab.data.question_file.parts.draw` names it; those that are fewer lose a near-duplicate last."""
FEWEST, MOST = 256, 2048
"""Pictures that are decoded before it is counted how many products are still missing."""


@dataclass(frozen=True)
class Chosen:
    """A product that is asked about. pixels: name of its picture's pixels; cluster: of products that stay together."""

    product: Product
    pixels: str
    cluster: str
    split: str


@dataclass(frozen=True)
class Choice:
    """chosen: in the order in which they are asked. notes: sentences about what was not there."""

    chosen: Sequence[Chosen]
    refusals: Sequence[Refusal]
    notes: Sequence[str]


def choose(catalogue: Catalogue, config: Curation, report: Report) -> Choice:
    """Choose `curation.products` of a catalogue. Raises `ConfigError` for a set to keep apart that is not there, `DataError` for none left."""
    rule = config.curation
    apart = Apart.of(config, report)
    products: list[Product] = []
    pixels: dict[str, Product] = {}
    members: list[list[str]] = []
    refusals = list(catalogue.refusals)
    for product, outcome in decoded(shuffled(catalogue.products, rule.seed), catalogue, config):
        if isinstance(outcome, str):
            refusals.append(refused("bad picture", product, outcome))
            continue
        members.append([f"product {product.product}", f"pixels {outcome.pixels}"])
        if outcome.pixels in pixels:
            refusals.append(refused("picture used already", product, f"by {pixels[outcome.pixels].name}"))
        elif outcome.pixels in apart.pixels:
            refusals.append(refused("picture of a set kept apart", product, apart.pixels[outcome.pixels]))
        elif near := apart.near(product, catalogue, config):
            refusals.append(refused("near-duplicate of a set kept apart", product, near))
        else:
            pixels[outcome.pixels] = product
            products.append(product)
        if len(products) == rule.products:
            break
    if not products:
        raise DataError(f"source={config.source.name}: no product is left of {len(catalogue.products) + len(catalogue.refusals)} listings.")
    notes = [f"curation.products={rule.products}: there are only {len(products)}."] if len(products) < (rule.products or 0) else []
    clusters = dict(zip((first for first, *_ in members), joined(members), strict=True))
    of_product = [clusters[f"product {product.product}"] for product in products]
    shares = {part: share / sum(rule.split) for part, share in zip(SPLITS, (rule.split[2], rule.split[1], rule.split[0]), strict=True) if share}
    parts = draw(of_product, rule.seed, shares)
    chosen = [Chosen(product, own, cluster, SPLITS[parts[cluster]]) for product, own, cluster in zip(products, pixels, of_product, strict=True)]
    near = near_others(chosen, catalogue, config, report) if rule.near_duplicates else {}
    refusals += [refused("near-duplicate of another part", one.product, near[one.product.name]) for one in chosen if one.product.name in near]
    return Choice([one for one in chosen if one.product.name not in near], refusals, notes)


def refused(reason: str, product: Product, detail: str) -> Refusal:
    """A product that is left out."""
    return Refusal(reason, product.name, product.picture.source, detail=detail)


def shuffled(products: Sequence[Product], seed: int) -> list[Product]:
    """The products in the order of SHA-256(seed/name): the first of a catalogue stay the first when it grows."""
    return sorted(products, key=lambda product: hashlib.sha256(f"{seed}/{product.name}".encode()).digest())


def decoded(products: Sequence[Product], catalogue: Catalogue, config: Curation) -> Iterator[tuple[Product, Decoded | str]]:
    """Yield each product with what its picture is, or why it is bad."""
    size = min(max(config.curation.products or MOST, FEWEST), MOST)
    for start in range(0, len(products), size):
        batch = products[start : start + size]
        outcomes = images.outcomes([product.picture for product in batch], Path(config.cache_dir), tables=catalogue.tables)
        yield from ((product, outcomes[product.picture.source]) for product in batch)


def near_others(chosen: Sequence[Chosen], catalogue: Catalogue, config: Curation, report: Report) -> dict[str, str]:
    """Products, by name, whose picture is like one of a part that is evaluated later, and of which."""
    found = likeness.of([one.product.picture for one in chosen], catalogue.tables, report)
    places = {split: np.array([at for at, one in enumerate(chosen) if one.split == split], dtype=int) for split in SPLITS.values()}
    near: dict[str, str] = {}
    for earlier, later in (("validation", "test"), ("train", "test"), ("train", "validation")):
        left, right = places[earlier], places[later]
        own, others = (Likeness(found.structure[at], found.colour[at]) for at in (left, right))
        for one, other in likeness.pairs(own, others, config.curation):
            near.setdefault(chosen[left[one]].product.name, f"of {chosen[right[other]].product.name} ({later})")
    return near


@dataclass(frozen=True)
class Apart:
    """The pictures of sets that are kept apart: by their pixels, what each is called; and their likeness."""

    pixels: dict[str, str]
    names: Sequence[str]
    likeness: Likeness | None

    @classmethod
    def of(cls, config: Curation, report: Report) -> Apart:
        """Read every set of `curation.keep_apart`. Raises `ConfigError` or `DataError`."""
        pixels: dict[str, str] = {}
        names: list[str] = []
        found: list[Likeness] = []
        for spelled in config.curation.keep_apart:
            pictures, tables = pictures_of(spelled, Path(config.cache_dir))
            outcomes = images.outcomes(pictures, Path(config.cache_dir), tables=tables)
            good = [picture for picture in pictures if not isinstance(outcomes[picture.source], str)]
            pixels |= {outcome.pixels: source for source, outcome in outcomes.items() if not isinstance(outcome, str)}
            if config.curation.near_duplicates:
                names += [picture.source for picture in good]
                found.append(likeness.of(good, tables, report))
        both = Likeness(*(np.concatenate(arrays) for arrays in zip(*found, strict=True))) if found else None
        return cls(pixels, names, both)

    def near(self, product: Product, catalogue: Catalogue, config: Curation) -> str:
        """What a product's picture is like in these sets; empty: nothing."""
        if self.likeness is None:
            return ""
        own = likeness.of([product.picture], catalogue.tables, lambda *_: None)
        return next((self.names[other] for _, other in likeness.pairs(own, self.likeness, config.curation)), "")


def pictures_of(spelled: str, cache_dir: Path) -> tuple[list[Picture], images.Tables | None]:
    """The distinct pictures of a file of questions, of a folder, or of a data option such as `easy_vqa` or `winoground root=FOLDER`."""
    path = paths.path(spelled, "curation.keep_apart")
    pictures_alone = ConfigError(f"curation.keep_apart=[{spelled}]: it has clips, and products are held apart from pictures. Name pictures alone.")
    if path.is_dir():
        found = unanswered.of_pictures([path], "", (1,), pictures_alone)
    elif path.is_file():
        dial = data.dial_of("questions", (), f"curation.keep_apart=[{spelled}]", path=str(path))
        found = unanswered.of_file(dial, None, cache_dir, pictures_alone)
    elif spelled.split()[0] in data.NAMES:
        splits = data.load(data.option(spelled).dial, cache_dir)
        samples = [sample for part in (splits.train, splits.minival, splits.dev) for sample in map(part.__getitem__, range(len(part)))]
        return list({one.source: one for sample in samples for one in sample.images if isinstance(one, Picture)}.values()), None
    else:
        raise ConfigError(
            f"curation.keep_apart=[{spelled}]: it is no file, no folder, and no data option.{did_you_mean(spelled, data.NAMES)} Data options "
            f"are {', '.join(data.NAMES)}."
        )
    if found.faults:
        raise DataError(f"curation.keep_apart=[{spelled}]: {found.faults[0]}. It could not be kept apart; mend the row.")
    pictures = (picture for record in found.records for picture in record.pictures if isinstance(picture, Picture))
    return list({picture.source: picture for picture in pictures}.values()), found.tables
