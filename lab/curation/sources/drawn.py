"""`source=drawn`: a small catalogue in ABO's layout, drawn on the spot: sets of coloured things, and the traps of the real one.

Beside `source.products` listings that pass the filter, with pictures that differ, about a quarter as many do not: in another language,
with too few attributes, without or with a damaged picture, a second listing of one product, a copy of a picture under another id.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.curation.catalogue import Catalogue
from lab.curation.config import Curation
from lab.curation.sources import abo
from lab.data import scenes
from lab.errors import DataError
from lab.host.files import write_atomically

VERSION = 1
"""Of what is drawn from a seed."""
COUNTS = ("one", "two", "three", "four")
PATTERNS = ("solid", "striped")
TRAPS = ("German", "few attributes", "no picture", "damaged picture", "second listing", "copied picture")
EVERY = 4
"""A trap follows each so many listings."""
LICENCE = "Drawn by vlm-lab. These pictures and listings are free for any use.\n"


def read(config: Curation) -> Catalogue:
    """Draw the catalogue where it is not there yet, and read it as ABO is read. Raises `DataError` for a folder of other files."""
    source = config.source
    root = Path(source.root) if source.root else Path(config.cache_dir) / f"drawn-{source.products}-{source.seed}"
    drawn = {"version": VERSION, "products": source.products, "seed": source.seed}
    mark = root / "drawn.json"
    if not mark.is_file():
        if root.is_dir() and any(root.iterdir()) and not (root / "LICENSE").is_file():
            raise DataError(f"source.root={root}: it holds files, and no catalogue that was drawn. Name an empty folder.")
        draw(root, source.products, source.seed)
        write_atomically(mark, json.dumps(drawn))
    elif (there := json.loads(mark.read_text(encoding="utf-8"))) != drawn:
        raise DataError(f"source.root={root}: it holds a catalogue drawn with {there}, and {drawn} is asked for. Name another folder.")
    found = abo.read_folder(root, "small", source.least_attributes)
    return Catalogue("a drawn catalogue", root, found.products, found.refusals, "none is due: it was drawn by vlm-lab")


@dataclass(frozen=True)
class Design:
    """What a product is. arrangement: seeds the places of its things; a colour variant has that of the product before."""

    colour: str
    shape: str
    count: int
    pattern: str
    arrangement: int

    @classmethod
    def next(cls, number: int, before: Design | None, rng: np.random.Generator) -> Design:
        """Each fifth product is the one before in another colour."""
        colours = list(scenes.RGB)
        if number % 5 == 4 and before is not None:
            return replace(before, colour=colours[(colours.index(before.colour) + 1) % len(colours)])
        colour, shape, pattern = (str(rng.choice(words)) for words in (colours, scenes.SHAPES, PATTERNS))
        return cls(colour, shape, int(rng.integers(1, len(COUNTS) + 1)), pattern, number)

    def listing(self, number: int, image_id: str) -> dict[str, Any]:
        """Its listing; the marketplace says nothing of the language."""
        count, things = COUNTS[self.count - 1], self.shape if self.count == 1 else scenes.PLURALS[self.shape]
        return {
            "item_id": f"B{number:05d}", "domain_name": "amazon.de" if number % 7 == 0 else "amazon.com", "main_image_id": image_id,
            "item_name": english(f"{count.capitalize()} {self.pattern} {self.colour} {things} for the wall") + german("Wandschmuck"),
            "color": [{"language_tag": "en_US", "value": self.colour, "standardized_values": [self.colour.capitalize()]}],
            "item_shape": english(self.shape), "pattern": english(self.pattern), "bullet_point": english(f"Set of {count}"),
            "product_type": [{"value": "WALL_ART"}], "product_description": english(f"<p>A <b>{self.pattern}</b> set: {count} {things}.</p>"),
            "item_weight": [{"unit": "grams", "value": 80 + number}], "marketplace": "Amazon", "country": "US",
        }  # fmt: skip

    def picture(self, seed: int) -> bytes:
        """A JPEG of equal things on a light ground."""
        palette = scenes.Palette((self.colour,), (self.shape,), self.count, self.count)
        scene = scenes.compose(np.random.default_rng((seed, self.arrangement)), palette, [])
        image = scenes.draw(scene)
        if self.pattern == "striped":
            pixels, ground = np.asarray(image).astype(np.int16), np.asarray(scene.background)
            striped = (np.abs(pixels - ground).max(axis=2) > 40) & (np.arange(scenes.SIDE)[:, None] // 2 % 2 == 0)
            image = Image.fromarray(np.where(striped[..., None], (pixels + 3 * ground) // 4, pixels).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=95, subsampling=0)
        return buffer.getvalue()


def draw(root: Path, products: int, seed: int) -> None:
    """Write the whole layout below a folder."""
    rng = np.random.default_rng(seed)
    listings: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}
    design: Design | None = None

    def add(data: bytes) -> str:
        name = f"{len(pictures):05d}+drawn"
        pictures[name] = data
        return name

    for number in range(products):
        design = Design.next(number, design, rng)
        listings.append(design.listing(number, add(design.picture(seed))))
        if number % EVERY == EVERY - 1:
            listings.append(trapped(TRAPS[number // EVERY % len(TRAPS)], listings[-1], pictures, add))
    write_atomically(root / "LICENSE", LICENCE)
    paths = {name: f"{name[3:5]}/{name}.jpg" for name in pictures}
    for name, data in pictures.items():
        write_atomically(root / "images" / "small" / paths[name], data)
    index = ["image_id,height,width,path", *(f"{name},{scenes.SIDE},{scenes.SIDE},{path}" for name, path in paths.items())]
    write_atomically(root / "images" / "metadata" / "images.csv.gz", zipped(index))
    half = len(listings) // 2
    for name, part in (("0", listings[:half]), ("1", listings[half:])):
        write_atomically(root / "listings" / "metadata" / f"listings_{name}.json.gz", zipped(map(json.dumps, part)))


def zipped(lines: Iterable[str]) -> bytes:
    """Lines as a gzip file, the same whenever it is made."""
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def trapped(trap: str, before: dict[str, Any], pictures: Mapping[str, bytes], add: Callable[[bytes], str]) -> dict[str, Any]:
    """A listing that fails, made of the one before."""
    listing = before | {"item_id": f"T{before['item_id']}"}
    encoded = pictures[before["main_image_id"]]
    match trap:
        case "German":
            return {key: value for key, value in listing.items() if key not in abo.KEPT} | {"item_name": german("Wandschmuck")}
        case "few attributes":
            return {key: value for key, value in listing.items() if key not in ("pattern", "bullet_point", "item_shape", "color")}
        case "no picture":
            return listing | {"main_image_id": None}
        case "damaged picture":
            return listing | {"main_image_id": add(encoded[: len(encoded) // 2])}
        case "second listing":
            return before | {"domain_name": "amazon.co.uk"}
        case _:
            return listing | {"main_image_id": add(encoded)}


def english(text: str) -> list[dict[str, str]]:
    """An attribute in English."""
    return [{"language_tag": "en_US", "value": text}]


def german(text: str) -> list[dict[str, str]]:
    """An attribute in German."""
    return [{"language_tag": "de_DE", "value": text}]
