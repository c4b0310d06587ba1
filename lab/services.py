"""What the keys of a model behind the OpenAI protocol may be, in whatever section they stand. Light."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from lab.config import ENDPOINT, Endpoint, Prices
from lab.errors import ConfigError

OF_ENDPOINT = ("endpoint", "data", "prompt", "tracking", "plugins", "seed")
OF_ENDPOINT_EVALUATION = ("also", "also_root", "max_samples", "max_new_tokens", "bootstrap", "judge")
"""Sections, and keys of `evaluation`, that say something of a model behind a server."""


def refuse_unread(overrides: Sequence[str]) -> None:
    """Raise a `ConfigError` for the first key that means nothing to `model=endpoint`: it would be dropped in silence."""
    for word in overrides:
        key = word.partition("=")[0].lstrip("+")
        section, _, name = key.partition(".")
        if word == "model=endpoint" or section in OF_ENDPOINT or (section == "evaluation" and name.partition(".")[0] in OF_ENDPOINT_EVALUATION):
            continue
        legal = ", ".join((*OF_ENDPOINT, *(f"evaluation.{each}" for each in OF_ENDPOINT_EVALUATION)))
        raise ConfigError(f"{key}: model=endpoint has no weights here, and a server does not read it. Legal beside it: {legal}.")


def require_weights(family: str) -> None:
    """Raise a `ConfigError` for `model=endpoint`, of a command that needs weights."""
    if family == ENDPOINT:
        raise ConfigError(
            "model=endpoint: its weights are behind a server, and this needs them here. It is asked by lab evaluate model=endpoint "
            "endpoint.base_url=URL endpoint.model=NAME evaluation.also=[SET,...]."
        )


def check(section: str, endpoint: Endpoint) -> None:
    """Check a section of the experiment that names a model, or none. Raises `ConfigError`; whether its key is there is seen when it is used."""
    if endpoint.base_url is None:
        given = next((key for key in ("model", "api_key_env", "budget") if getattr(endpoint, key) is not None), None)
        if given is not None:
            raise ConfigError(f"{section}.{given}: without {section}.base_url nobody is asked. Give the server's address, or leave both out.")
        return
    check_address(section, endpoint.base_url, endpoint.model)
    check_money(section, endpoint.budget, endpoint.prices)


def check_address(section: str, base_url: str, model: str | None) -> None:
    """Raise a `ConfigError` for an address that is none, or a model without a name."""
    if not re.match(r"https?://[^/\s]", base_url):
        raise ConfigError(f"{section}.base_url: it must begin with http:// or https://, as in {section}.base_url=http://localhost:11434/v1.")
    if not model:
        raise ConfigError(f"{section}.model: no model is named. Give {section}.model=NAME, as the server calls it.")


def check_money(section: str, budget: float | None, prices: Prices) -> None:
    """Raise a `ConfigError` for a budget without prices."""
    if budget is not None and None in (prices.input_per_million, prices.output_per_million):
        raise ConfigError(
            f"{section}.budget={budget}: money is counted by prices, which are not given. Add {section}.prices.input_per_million=PRICE "
            f"and {section}.prices.output_per_million=PRICE in the same currency."
        )


def api_key(key: str, name: str | None) -> str | None:
    """The secret in the environment variable `name`, which the config's `key` holds. Raises `ConfigError` that never shows what might be it."""
    if name is None:
        return None
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise ConfigError(
            f"{key}: it takes the NAME of an environment variable in capitals, not a key (what was given is not shown). Type "
            f"export MY_KEY=..., then {key}=MY_KEY."
        )
    if not os.environ.get(name):
        raise ConfigError(f"{key}={name}: this variable is not set. Type export {name}=..., or {key}=null for a server without keys.")
    return os.environ[name]
