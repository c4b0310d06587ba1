"""`source=table source.path=FILE`: any table with a picture and texts in each row, as `lab.data.records_file` reads it."""

from __future__ import annotations

from pathlib import Path

from lab.curation.catalogue import Catalogue, Product, Refusal
from lab.curation.config import Curation, SourceOption
from lab.data import manifest, records_file
from lab.data.faults import BadRecord
from lab.data.manifest import Row
from lab.data.records_file import RecordsFile
from lab.errors import ConfigError, did_you_mean
from lab.paths import absent
from lab.records import Picture


def read(config: Curation) -> Catalogue:
    """Read every row. Raises `ConfigError` for a column that is not there, `DataError` for a file that cannot be read."""
    source = config.source
    if source.path is None:
        raise ConfigError("source.path: no value is given, and it has no default. Give the table as source.path=FILE.")
    if not Path(source.path).exists():
        raise ConfigError(absent("source.path", source.path))
    file = records_file.read(source.path, (source.image,), Path(config.cache_dir), "source.path")
    texts = columns(file, source)
    folder = Path(source.root) if source.root else Path(source.path).parent
    inside = manifest.Root(folder)
    products: list[Product] = []
    refusals = [Refusal("not readable", fault.source, detail=fault.reason) for fault in file.faults]
    for row in file.rows:
        try:
            products.append(product_of(row, source, texts, inside))
        except BadRecord as fault:
            refusals.append(Refusal.of(fault))
    name = Path(source.path).name
    return Catalogue(name, Path(source.path).parent, products, refusals, tables=file.tables)


def columns(file: RecordsFile, source: SourceOption) -> list[str]:
    """The columns that describe a product."""
    given = [("image", source.image), *([("product", source.product)] if source.product else []), *(("text", name) for name in source.text)]
    for key, name in given:
        if name not in file.columns:
            there = ", ".join(file.columns)
            raise ConfigError(f"source.{key}={name}: {source.path} has no such column; it has {there}.{did_you_mean(name, file.columns)}")
    texts = source.text or [name for name in file.columns if name not in (source.image, source.product)]
    if not texts:
        raise ConfigError(f"source.path={source.path}: it has no column beside the picture, and nothing can be held against the answers.")
    return texts


def product_of(row: Row, source: SourceOption, texts: list[str], inside: manifest.Root) -> Product:
    """One row. Raises `BadRecord` whose reason is `word: detail`."""
    picture = row.fields.get(source.image)
    if isinstance(picture, list) and len(picture) == 1:
        picture = picture[0]
    if not isinstance(picture, str | Picture):
        raise BadRecord(row.source, f"no picture: column {source.image!r} is empty or holds several")
    if isinstance(picture, str):
        try:
            picture = Picture(str(inside.file(picture, row.source)))
        except BadRecord as fault:
            raise BadRecord(row.source, f"no picture: {fault.reason}") from None
    cells = {name: row.fields.get(name) for name in texts}
    attributes = {name: (cell,) if isinstance(cell, str) else tuple(map(str, cell)) for name, cell in cells.items() if cell}
    if len(attributes) < source.least_attributes:
        raise BadRecord(row.source, f"fewer than {source.least_attributes} attributes: {', '.join(attributes) or 'none'}")
    place = Path(row.source).name
    return Product(place, str(row.fields.get(source.product) or place) if source.product else place, picture, attributes)
