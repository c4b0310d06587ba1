"""Which model is asked, what may be used of it, and what both may be. Light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab import services
from lab.config import MISSING, Endpoint, Prices
from lab.errors import ConfigError


@dataclass
class Llm:
    """A model behind the OpenAI protocol (`POST base_url/chat/completions`). A parameter that is None is not sent.

    api_key_env: name of the environment variable that holds the key; None: no key is sent. extra_body: further fields of the request.
    timeout_s, give_up_s: seconds one attempt, and all attempts about one picture, may take.
    """

    base_url: str = MISSING
    model: str = MISSING
    api_key_env: str | None = "OPENAI_API_KEY"
    workers: int = 8
    temperature: float | None = 0.0
    top_p: float | None = 1.0
    top_k: int | None = None
    seed: int | None = 42
    max_output_tokens: int | None = 256
    extra_body: dict[str, Any] = field(default_factory=dict)
    image_side: int = 768
    timeout_s: float = 120.0
    give_up_s: float = 1800.0


@dataclass
class Limits:
    """What may be used. None: no limit. All but max_time count every attempt ever made into one folder."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens: int | None = None
    budget: float | None = None
    max_time: str | None = None
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True)
class Service:
    """A model and what may be used of it. llm_keys, limits_keys: the section that each stands in, as errors name it.

    has_times: `timeout_s` and `give_up_s` are keys there.
   """

    llm: Llm
    limits: Limits
    llm_keys: str = "llm"
    limits_keys: str = "limits"
    has_times: bool = True

    def api_key(self) -> str | None:
        """The key out of the environment. Raises `ConfigError` where it is not there."""
        return services.api_key(f"{self.llm_keys}.api_key_env", self.llm.api_key_env)

    def seconds(self, name: str) -> str:
        """A time in a sentence: with its key, where it has one."""
        value = f"{getattr(self.llm, name):g}"
        return f"{self.llm_keys}.{name}={value}" if self.has_times else f"{value} s"


TIMEOUT_S, GIVE_UP_S = 120.0, 120.0
"""Of one attempt, and of all attempts about one question, where no key says so: what was not answered waits for the next command."""


def of_endpoint(endpoint: Endpoint, section: str, most_tokens: int) -> Service:
    """The service of a section of the experiment, asked greedily. most_tokens: of a reply."""
    llm = Llm(
        base_url=endpoint.base_url or "", model=endpoint.model or "", api_key_env=endpoint.api_key_env, workers=endpoint.workers, top_p=None,
        seed=None, max_output_tokens=most_tokens, timeout_s=TIMEOUT_S, give_up_s=GIVE_UP_S,
    )  # fmt: skip
    return Service(llm, Limits(budget=endpoint.budget, prices=endpoint.prices), section, section, has_times=False)


def check(service: Service) -> None:
    """Raise `ConfigError` for an address that is none, money without prices, a limit that cannot hold, or a key that is not there."""
    llm, limits = service.llm, service.limits
    services.check_money(service.limits_keys, limits.budget, limits.prices)
    if llm.max_output_tokens is None and not (limits.budget is None and limits.tokens is None):
        raise ConfigError(
            f"{service.llm_keys}.max_output_tokens=null: without it no request has a highest price, and a limit of money or tokens cannot hold."
        )
    services.check_address(service.llm_keys, llm.base_url, llm.model)
    service.api_key()
