"""The request about a product: the bytes of its picture and the words that are sent."""

from __future__ import annotations

import io

from PIL import Image

from lab.curation.catalogue import Catalogue, Product
from lab.curation.config import Curation
from lab.data import images
from lab.data.files import open_regular
from lab.llm.request import Encoded, Request
from lab.records import Medium, Picture

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that are sent as they are; others are encoded anew."""
ORIENTATION = 274
"""The EXIF tag."""


def of(product: Product, catalogue: Catalogue, config: Curation) -> Request:
    """The request about a product whose picture decodes."""
    picture = catalogue.tables.fetch(product.picture) if catalogue.tables else product.picture
    sent = encoded(picture, config.llm.image_side)
    words = config.prompt.text.replace("{metadata}", product.metadata)
    return Request(product.name, (sent, words), config.llm)


def encoded(picture: Medium, most: int | None) -> Encoded:
    """A picture's file as it is where servers take it, upright and whole; else made anew. most: pixels of its longer edge, where it is a JPEG
    then; None: in full size, as PNG."""
    assert isinstance(picture, Picture)  # clips are in no catalogue and no benchmark
    if picture.data is None:
        with open_regular(picture.source) as file:
            data = file.read()
    else:
        data = picture.data
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
        small = most is None or max(image.size) <= most
        if image.format in MIME and small and picture.crop is None and image.getexif().get(ORIENTATION, 1) == 1:
            return Encoded(data, MIME[image.format], image.size)
    made, buffer = images.decode(picture), io.BytesIO()
    if most is None:
        made.save(buffer, "PNG")
        return Encoded(buffer.getvalue(), MIME["PNG"], made.size)
    made.thumbnail((most, most), Image.Resampling.LANCZOS)
    made.save(buffer, format="JPEG", quality=92)
    return Encoded(buffer.getvalue(), MIME["JPEG"], made.size)
