"""One request: what is sent, the key its reply is kept under, and what it may cost at most."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lab.config import Prices
from lab.host.files import text_hash
from lab.host.redaction import without_secrets
from lab.llm.config import Llm


@dataclass(frozen=True)
class Usage:
    """Tokens of a request and of its answer."""

    input: int
    output: int

    def cost(self, prices: Prices) -> float:
        """Money; 0 without prices."""
        return (self.input * (prices.input_per_million or 0.0) + self.output * (prices.output_per_million or 0.0)) / 1e6


@dataclass(frozen=True)
class Encoded:
    """A picture as it is sent: its file's bytes, and its width and height in pixels."""

    data: bytes
    mime: str
    size: tuple[int, int]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def part(self) -> dict[str, Any]:
        """As a part of a message."""
        return {"type": "image_url", "image_url": {"url": f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"}}

    @property
    def at_most(self) -> int:
        """Tokens: one for 16 x 16 pixels, and some."""
        width, height = self.size
        return 300 + math.ceil(width / 16) * math.ceil(height / 16)


@dataclass(frozen=True)
class Request:
    """What is asked. about: a product or a question, by its name. parts: text and pictures of the user's message, in order.

    system: a message before it. kept_under: all that a reply depends on, where that is less than server, model, parts and parameters.
    beside: fields on which no reply depends; they are left out once a server has refused them by name.
    """

    about: str
    parts: tuple[str | Encoded, ...]
    llm: Llm
    system: str | None = None
    kept_under: tuple[str, ...] = ()
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Its words."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> list[Encoded]:
        return [part for part in self.parts if isinstance(part, Encoded)]

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that an answer depends on: server, model, words, the pictures' bytes and their places, parameters."""
        if self.kept_under:
            return text_hash(*self.kept_under)
        server, texts = without_secrets(self.llm.base_url).rstrip("/"), [part for part in self.parts if isinstance(part, str)]
        places = "".join("t" if isinstance(part, str) else "i" for part in self.parts)
        more = [] if (places, self.system) == ("it", None) else [places, self.system or ""]
        pictures = [picture.digest for picture in self.pictures]
        return text_hash(server, self.llm.model, *texts, *pictures, json.dumps(parameters(self.llm), sort_keys=True), *more)

    def body(self) -> dict[str, Any]:
        """The body of `POST chat/completions`; a message without pictures is a plain string, which servers of text alone take too."""
        content: Any = [{"type": "text", "text": part} if isinstance(part, str) else part.part for part in self.parts]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = [*system, {"role": "user", "content": content if self.pictures else self.text}]
        return {"model": self.llm.model, "messages": messages, **parameters(self.llm)}

    def at_most(self) -> Usage:
        """Tokens that are reserved before it is sent: more than any tokenizer in use makes of it."""
        words = len(f"{self.system or ''}{self.text}".encode()) // 2
        return Usage(sum(picture.at_most for picture in self.pictures) + 32 + words, self.llm.max_output_tokens or 4096)


def parameters(llm: Llm) -> dict[str, Any]:
    """All fields of a request's body but model and messages."""
    named = {"temperature": llm.temperature, "top_p": llm.top_p, "top_k": llm.top_k, "seed": llm.seed, "max_tokens": llm.max_output_tokens}
    return {key: value for key, value in named.items() if value is not None} | dict(llm.extra_body)
