"""What the body of a reply tells of its probabilities: `logprobs` of the OpenAI protocol, which not every server has."""

from __future__ import annotations

import json
import math
import re
import string
from typing import Any

ASKED = {"logprobs": True, "top_logprobs": 20}
"""Fields of a request that ask for them. What is answered does not depend on them, and what was paid for without them stays."""


def told(body: str, options: int = 0) -> dict[str, float]:
    """`log_p` of all `tokens` of a reply, in nats, and of a choice among so many options log p of each letter, where one stands first.

    A letter's is that of all its spellings among the likeliest tokens of its place. Empty where the server tells nothing.
    """
    try:
        places = json.loads(body)["choices"][0]["logprobs"]["content"]
        found = {"log_p": math.fsum(float(place["logprob"]) for place in places), "tokens": float(len(places))}
        return found | letters(places, string.ascii_uppercase[:options]) if places and math.isfinite(found["log_p"]) else {}
    except (ValueError, LookupError, TypeError):
        return {}


def letters(places: list[dict[str, Any]], legal: str) -> dict[str, float]:
    """log p of each letter at the first place where one stands."""
    for place in places:
        if letter(place["token"], legal):
            likely = {one["token"]: float(one["logprob"]) for one in (place, *(place.get("top_logprobs") or ()))}
            mass: dict[str, float] = {}
            for token, log_p in likely.items():
                if name := letter(token, legal):
                    mass[name] = mass.get(name, 0.0) + math.exp(log_p)
            return {name: math.log(mass[name]) for name in sorted(mass) if mass[name] > 0}
    return {}


def letter(token: str, legal: str) -> str:
    """The option that a token names, in brackets or not; empty for none."""
    name = re.fullmatch(r"[\s(\[*▁Ġ]*([A-Z])[\s)\].:*]*", token)
    return name[1] if name and name[1] in legal else ""
