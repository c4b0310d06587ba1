"""`source=abo`: Amazon Berkeley Objects (Collins et al. 2022, 2110.06199) in its official layout.

    listings/metadata/*.json.gz       a JSON object a line; any key may be missing
    images/metadata/images.csv.gz     image_id,height,width,path
    images/small/, images/original/   the pictures

Kept is a listing whose main picture is there and that has at least `source.least_attributes` of `KEPT` in English, as the language
tag of each value says, not the marketplace; `product_type` has no tag and counts. All other attributes are dropped.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lab.curation.catalogue import Catalogue, Product, Refusal
from lab.curation.config import Curation
from lab.data.faults import BadRecord, shown
from lab.data.files import why_unreadable
from lab.data.manifest import Root
from lab.errors import ConfigError, DataError
from lab.records import Picture

KEPT = (
    "bullet_point", "color", "fabric_type", "finish_type", "item_keywords", "item_name", "item_shape", "material", "pattern",
    "product_description", "product_type", "style",
)  # fmt: skip
"""Attributes of which a picture may show something."""
ENGLISH = re.compile(r"en([_-]|$)", re.IGNORECASE)
CREDIT = (
    "Amazon Berkeley Objects (https://amazon-berkeley-objects.s3.amazonaws.com/index.html): credit for the data, including all images and "
    "3D models, must be given to Amazon.com. Collins et al., ABO: Dataset and Benchmarks for Real-World 3D Object Understanding, CVPR 2022."
)


def read(config: Curation) -> Catalogue:
    """Read all listings below `source.root`. Raises `ConfigError` without one, `DataError` for a folder of another layout or a file that is cut."""
    if config.source.root is None:
        raise ConfigError("source.root: no value is given, and it has no default. Give the folder of the catalogue as source.root=FOLDER.")
    return read_folder(Path(config.source.root), config.source.pictures, config.source.least_attributes)


def read_folder(root: Path, size: str, least: int) -> Catalogue:
    """Read a folder of this layout. size: small or original. least: attributes in English."""
    listings = sorted((root / "listings" / "metadata").glob("*.json.gz"))
    index, folder = root / "images" / "metadata" / "images.csv.gz", root / "images" / size
    needed = {root / "listings/metadata/*.json.gz": bool(listings), index: index.is_file(), folder: folder.is_dir()}
    for missing in [path for path, there in needed.items() if not there]:
        raise DataError(
            f"source.root={root}: {missing} is not there. Unpack abo-listings.tar and abo-images-small.tar of "
            "https://amazon-berkeley-objects.s3.amazonaws.com/index.html into one folder."
        )
    places = pictures(index)
    inside = Root(folder)
    products: dict[str, Product] = {}
    refusals: list[Refusal] = []
    for path in listings:
        for number, line in enumerate(lines(path), start=1):
            try:
                product = listing(f"{path.name}:{number}", line, places, inside, least)
            except BadRecord as fault:
                refusals.append(Refusal.of(fault))
                continue
            if product.name in products:
                refusals.append(Refusal("listed a second time", product.name, detail=f"{path.name}:{number}"))
            else:
                products[product.name] = product
    return Catalogue("Amazon Berkeley Objects", root, list(products.values()), refusals, CREDIT)


def listing(source: str, line: str, places: dict[str, str], inside: Root, least: int) -> Product:
    """One listing. Raises `BadRecord` whose reason is `word: detail`."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise BadRecord(source, f"not readable: {error}") from None
    if not isinstance(fields, dict):
        raise BadRecord(source, f"not readable: {shown(fields)} is no JSON object")
    item = fields.get("item_id")
    name = f"{item}@{fields['domain_name']}" if fields.get("domain_name") else f"{item}"
    if not isinstance(item, str) or not item:
        raise BadRecord(source, "not readable: it has no item_id")
    picture = fields.get("main_image_id")
    if not picture:
        raise BadRecord(name, "no main picture: main_image_id is empty")
    if picture not in places:
        raise BadRecord(name, f"no main picture: {shown(picture)} is not in images.csv.gz")
    attributes = {key: values for key in KEPT if (values := english(fields.get(key)))}
    if len(attributes) < least:
        raise BadRecord(name, f"fewer than {least} attributes in English: {', '.join(attributes) or 'none'}")
    try:
        return Product(name, item, Picture(str(inside.file(places[picture], name))), attributes)
    except BadRecord as fault:
        raise BadRecord(name, f"no main picture: {fault.reason}") from None


def english(value: Any) -> tuple[str, ...]:
    """The distinct texts of an attribute that are in English or have no language; () where there are none."""
    texts: list[str] = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict) and ENGLISH.match(str(one.get("language_tag", "en"))):
            texts += [one.get("value"), *(one.get("standardized_values") or [])]
        elif isinstance(one, str):
            texts.append(one)
    return tuple(dict.fromkeys(text for each in texts if isinstance(each, str | int | float) and (text := plain(str(each)))))


def plain(text: str) -> str:
    """A text without HTML tags, its white space single."""
    if "<" in text or "&" in text:
        parser = Words()
        parser.feed(text)
        parser.close()
        text = " ".join(parser.words)
    return " ".join(text.split())


class Words(HTMLParser):
    """Collects what stands between tags."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def pictures(index: Path) -> dict[str, str]:
    """The path of each picture by its id."""
    rows = csv.DictReader(io.StringIO("\n".join(lines(index))))
    if not {"image_id", "path"} <= set(rows.fieldnames or ()):
        raise DataError(f"{index}: its columns are {', '.join(rows.fieldnames or ())}; image_id and path are needed.")
    return {row["image_id"]: row["path"] for row in rows}


def lines(path: Path) -> Iterator[str]:
    """The lines of a gzip file in UTF-8, with or without a byte-order mark. Raises `DataError` for one that is cut or no gzip file."""
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            yield from (line.rstrip("\n") for line in file if line.strip())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: {why_unreadable(error)}. Download it again.") from None
