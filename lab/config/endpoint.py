"""The section `endpoint`: a model behind a server."""

from __future__ import annotations

from dataclasses import dataclass, field

ENDPOINT = "endpoint"
"""The family of `model=endpoint`: a model behind a server, whose weights are not here."""


@dataclass
class Prices:
    """Money for a million tokens, in the currency of the budget beside them."""

    input_per_million: float | None = None
    output_per_million: float | None = None


@dataclass
class Endpoint:
    """A model behind the OpenAI protocol, `POST base_url/chat/completions`. base_url None: none is asked.

    api_key_env: name of the environment variable that holds the key; None: no key is sent. workers: requests at the same time.
    budget: money, by `prices`, that all requests ever noted in one store may cost.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    workers: int = 8
    budget: float | None = None
    prices: Prices = field(default_factory=Prices)
