"""The request about a product: the bytes of its picture and the words that are sent."""

from __future__ import annotations

import io

from PIL import Image

from lab.curation.catalogue import Catalogue, Product
from lab.curation.config import Curation
from lab.data import images
from lab.data.files import open_regular
from lab.llm.request import Encoded, Request

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that are sent as they are; others are encoded anew."""
ORIENTATION = 274
"""The EXIF tag."""


def of(product: Product, catalogue: Catalogue, config: Curation) -> Request:
    """The request about a product whose picture decodes."""
    picture = catalogue.tables.fetch(product.picture) if catalogue.tables else product.picture
    if picture.data is None:
        with open_regular(picture.source) as file:
            data = file.read()
    else:
        data = picture.data
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
        as_it_is = image.format in MIME and max(image.size) <= config.llm.image_side and image.getexif().get(ORIENTATION, 1) == 1
        mime, size = MIME.get(image.format or "", ""), image.size
    if not as_it_is:
        small = images.decode(picture)
        small.thumbnail((config.llm.image_side, config.llm.image_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=92)
        data, mime, size = buffer.getvalue(), MIME["JPEG"], small.size
    words = config.prompt.text.replace("{metadata}", product.metadata)
    return Request(product.name, (Encoded(data, mime, size), words), config.llm)
