"""One request: the bytes and words that are sent for a product, the key its answer is kept under, and what it may cost at most."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from lab.curation.catalogue import Catalogue, Product
from lab.curation.config import Curation, Llm
from lab.data import images
from lab.data.files import open_regular
from lab.host.files import text_hash
from lab.host.redaction import without_secrets

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that are sent as they are; others are encoded anew."""
ORIENTATION = 274
"""The EXIF tag."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request and of its answer."""

    input: int
    output: int

    def cost(self, config: Curation) -> float:
        """Money, by the prices of the config; 0 without prices."""
        prices = config.limits.prices
        return (self.input * (prices.input_per_million or 0.0) + self.output * (prices.output_per_million or 0.0)) / 1e6


@dataclass(frozen=True)
class Request:
    """What is asked about one product. image: the bytes sent."""

    product: str
    image: bytes
    mime: str
    size: tuple[int, int]
    text: str
    llm: Llm

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that an answer depends on: server, model, prompt with metadata, the picture's bytes, parameters."""
        server, picture = without_secrets(self.llm.base_url).rstrip("/"), hashlib.sha256(self.image).hexdigest()
        return text_hash(server, self.llm.model, self.text, picture, json.dumps(parameters(self.llm), sort_keys=True))

    def body(self) -> dict[str, Any]:
        """The body of `POST chat/completions`."""
        url = f"data:{self.mime};base64,{base64.b64encode(self.image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.text}]
        return {"model": self.llm.model, "messages": [{"role": "user", "content": content}], **parameters(self.llm)}

    def at_most(self) -> Usage:
        """Tokens that are reserved before it is sent: more than any tokenizer in use makes of it (a picture: one for 16 x 16 pixels)."""
        width, height = self.size
        picture = 300 + math.ceil(width / 16) * math.ceil(height / 16)
        return Usage(picture + 32 + len(self.text.encode()) // 2, self.llm.max_output_tokens or 4096)


def parameters(llm: Llm) -> dict[str, Any]:
    """All fields of a request's body but model and messages."""
    named = {"temperature": llm.temperature, "top_p": llm.top_p, "top_k": llm.top_k, "seed": llm.seed, "max_tokens": llm.max_output_tokens}
    return {key: value for key, value in named.items() if value is not None} | dict(llm.extra_body)


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
    return Request(product.name, data, mime, size, config.prompt.text.replace("{metadata}", product.metadata), config.llm)
