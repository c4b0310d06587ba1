"""The schema of `python -m lab.curate`, what each value may be, and the way from a composed config to it. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab import bounds, freezing, paths
from lab.bounds import COUNT, MACHINES, SEED, Bounds, Words
from lab.config import MISSING
from lab.errors import ConfigError
from lab.keys import Schema
from lab.llm.config import Limits, Llm, Service
from lab.llm.config import check as check_service

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class SourceOption:
    """Which catalogue. root: its folder, or that of a table's pictures. path, image, product, text: of `table`.

    pictures: of `abo`: small or original. products, seed: of `drawn`. least_attributes: with fewer a product is refused.
    """

    name: str = MISSING
    root: str | None = None
    path: str | None = None
    image: str = "image"
    product: str | None = None
    text: list[str] = field(default_factory=list)
    pictures: str = "small"
    products: int = 200
    seed: int = 0
    least_attributes: int = 1


@dataclass
class PromptOption:
    """What is said beside the picture; `{metadata}` stands where the product's attributes go, a line each."""

    name: str = MISSING
    text: str = MISSING


@dataclass
class Selection:
    """Which products, and which part each is in.

    split: shares of train, validation and test. keep_apart: evaluation sets whose pictures, and their likes, are refused.
    near_structure: bits; near_colour: CIE76 distance; up to both two pictures are near-duplicates (`lab.curation.likeness`).
    """

    products: int | None = None
    seed: int = 0
    split: list[float] = field(default_factory=lambda: [80.0, 10.0, 10.0])
    keep_apart: list[str] = field(default_factory=list)
    near_duplicates: bool = True
    near_structure: int = 8
    near_colour: float = 6.0


@dataclass
class Quality:
    """Rules that refuse questions (`lab.curation.quality`); one that is off only raises a doubt. yes_no_share None: not balanced."""

    one_word: bool = True
    repeated: bool = True
    answer_in_question: bool = True
    unsupported: bool = True
    yes_no_share: float | None = 0.6


@dataclass
class Review:
    """pictures: on the page to look through. decisions: the file that it saved."""

    pictures: int = 50
    decisions: str | None = None


@dataclass
class Curation:
    source: SourceOption = field(default_factory=SourceOption)
    prompt: PromptOption = field(default_factory=PromptOption)
    llm: Llm = field(default_factory=Llm)
    limits: Limits = field(default_factory=Limits)
    curation: Selection = field(default_factory=Selection)
    quality: Quality = field(default_factory=Quality)
    review: Review = field(default_factory=Review)
    to: str = "curated"
    preview: str = "true"
    cache_dir: str = "cache"

    @property
    def service(self) -> Service:
        """The model that is asked."""
        return Service(self.llm, self.limits)


NUMBERS: Mapping[str, Bounds] = {
    "source.products": Bounds(1, 10**6),
    "source.seed": Bounds(0, SEED),
    "source.least_attributes": Bounds(1, 1000),
    "llm.workers": Bounds(1, MACHINES),
    "llm.temperature": Bounds(0.0, 2.0),
    "llm.top_p": Bounds(0.0, 1.0),
    "llm.top_k": Bounds(1, COUNT),
    "llm.seed": Bounds(0, SEED),
    "llm.max_output_tokens": Bounds(1, 10**6),
    "llm.image_side": Bounds(32, 8192),
    "llm.timeout_s": Bounds(0.1, 86400.0),
    "llm.give_up_s": Bounds(0.1, 86400.0),
    "limits.requests_per_minute": Bounds(1, COUNT),
    "limits.requests_per_day": Bounds(1, COUNT),
    "limits.tokens_per_minute": Bounds(1, 10**12),
    "limits.tokens": Bounds(1, 10**15),
    "limits.budget": Bounds(0.0, 1e9),
    "limits.prices.input_per_million": Bounds(0.0, 1e9),
    "limits.prices.output_per_million": Bounds(0.0, 1e9),
    "curation.products": Bounds(1, COUNT),
    "curation.seed": Bounds(0, SEED),
    "curation.split": Bounds(0.0, 100.0, length=3),
    "curation.near_structure": Bounds(0, 64),
    "curation.near_colour": Bounds(0.0, 400.0),
    "quality.yes_no_share": Bounds(0.5, 1.0),
    "review.pictures": Bounds(0, 10**4),
}
WORDS: Mapping[str, Words] = {
    "source.pictures": Words(("small", "original")),
    "preview": Words(("true", "false", "only")),
    "limits.max_time": bounds.WORDS["trainer.max_time"],
}
PATHS = ("source.root", "source.path", "review.decisions", "to", "cache_dir")
SCHEMA = Schema(Curation, ("source", "prompt"), "curate", NUMBERS, WORDS, PATHS)


def freeze(composed: DictConfig) -> Curation:
    """The config, checked. Raises `ConfigError` with key, value and what is legal."""
    config = freezing.checked(composed, Curation, NUMBERS)
    config.preview = config.preview.lower()  # Hydra reads true and false as truth values
    bounds.check(config, numbers=NUMBERS, words=WORDS)
    for key in PATHS:
        *section, name = key.split(".")
        owner = getattr(config, section[0]) if section else config
        if (spelled := getattr(owner, name)) is not None:
            setattr(owner, name, paths.expanded(spelled, key))
    check(config)
    return config


def check(config: Curation) -> None:
    """Check what types and bounds cannot say."""
    if "{metadata}" not in config.prompt.text:
        raise ConfigError("prompt.text: it must hold {metadata}, in whose place the attributes of a product are put.")
    if not config.curation.split[0]:
        raise ConfigError(f"curation.split={bounds.spelled(config.curation.split)}: train, the first, must have a share above 0.")
    check_service(config.service)
