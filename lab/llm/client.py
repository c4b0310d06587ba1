"""One attempt over the OpenAI protocol: what a response means. It never tries again by itself (`lab.llm.asking` does)."""

from __future__ import annotations

import email.utils
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from lab.errors import ConfigError
from lab.host.redaction import hide, without_secrets
from lab.llm.config import Service
from lab.llm.limits import QuotaUsedUp
from lab.llm.request import Request, Usage
from lab.llm.store import Answer, State

QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded", "PerDay")
"""Words of a 429 that no waiting mends: OpenAI's codes, and a quotaId of Gemini such as GenerateRequestsPerDayPerProjectPerModel."""
BLOCKED = ("content_filter", "content_policy_violation", "PROHIBITED_CONTENT", "ResponsibleAIPolicyViolation")
"""Words of a 400 by which a provider refuses this picture or text for good."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
"""Statuses after which the same request may succeed."""


NO_CONNECTION = "no connection"


class Passing(Exception):
    """An attempt failed in a way that may pass. outcome: in a word; wait_s: as the server asked; used: tokens that may have been paid for."""

    def __init__(self, outcome: str, told: str, used: Usage | None = None, wait_s: float | None = None) -> None:
        super().__init__(told)
        self.outcome, self.used, self.wait_s = outcome, used or Usage(0, 0), wait_s


@dataclass(frozen=True)
class Reply:
    """answer: that of a response that ends the request. outcome: its status. used: tokens, as the server counts them."""

    answer: Answer
    outcome: str
    used: Usage


class Client:
    """A server; used by several threads."""

    def __init__(self, service: Service) -> None:
        """Raises `ConfigError` for a key that is not there."""
        key, llm = service.api_key(), service.llm
        if key is not None:
            hide(key)
        pool = httpx.Limits(max_connections=llm.workers, max_keepalive_connections=llm.workers)
        self.service, self.llm, self.section = service, llm, service.llm_keys
        self.url = f"{llm.base_url.rstrip('/')}/chat/completions"
        self.refused: frozenset[str] = frozenset()
        self.http = httpx.Client(timeout=llm.timeout_s, limits=pool, headers={"Authorization": f"Bearer {key}"} if key else {})

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def ask(self, request: Request, most: Usage) -> Reply:
        """Send a request once. most: what it may use, taken for the truth where the server does not say.

        Raises `Passing`, `QuotaUsedUp` for a quota that is used up, `ConfigError` for what no request to this server can get past.
        """
        beside = {name: value for name, value in request.beside.items() if name not in self.refused}
        try:
            response = self.http.post(self.url, json=request.body() | beside)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Passing(NO_CONNECTION, f"{self.section}.base_url={self.shown()}: no connection ({error}).") from None
        except httpx.TimeoutException:
            raise Passing("timeout", f"no answer within {self.service.seconds('timeout_s')}", most) from None
        except httpx.TransportError as error:
            raise Passing("cut connection", f"the connection was cut ({error or type(error).__name__})", most) from None
        named = [name for name in beside if name in response.text] if response.status_code in (400, 422) else []
        if named:
            longest = max(named, key=len)  # top_logprobs may be refused without logprobs, whose name is in its own
            self.refused |= {name for name in beside if longest in name}
            return self.ask(request, most)
        return self.reply(response, most)

    def reply(self, response: httpx.Response, most: Usage) -> Reply:
        """What a response means."""
        status, text = response.status_code, without_secrets(response.text)
        told = sentence(text) or response.reason_phrase
        if status == 402 or (status == 429 and any(word in text for word in QUOTA)):
            raise QuotaUsedUp(f"{self.shown()}: the quota is used up. The provider says: {told}")
        if status in PASSING:
            raise Passing(str(status), f"{status}: {told}", wait_s=retry_after(response.headers.get("retry-after")))
        if status in (400, 413, 422):
            blocked = any(word in text for word in BLOCKED)
            return Reply(Answer(State.filtered if blocked else State.failed, "", f"{status}: {told}", text), str(status), Usage(0, 0))
        if status != 200:
            keys = f"{self.section}.base_url={self.shown()} {self.section}.model={self.llm.model}"
            raise ConfigError(f"{keys}: the server refuses every request: {status}: {told}")
        try:
            body = json.loads(text)
            choice = body["choices"][0]
            content = choice["message"].get("content") or ""
            if not isinstance(content, str):
                raise TypeError("content is no text")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Passing("no completion", f"200, but no completion: {told}", most) from None
        return Reply(answer_of(content, choice, text), "200", usage_of(body, most))

    def shown(self) -> str:
        """The server's address as it may be printed."""
        return without_secrets(self.llm.base_url)


def answer_of(content: str, choice: dict[str, Any], body: str) -> Answer:
    """A completion with its state, by the reason for which it ended."""
    reason = choice.get("finish_reason")
    if reason == "content_filter" or choice["message"].get("refusal"):
        return Answer(State.filtered, content, str(choice["message"].get("refusal") or reason), body)
    if not content.strip():
        return Answer(State.empty, "", "all its tokens went elsewhere" if reason == "length" else "", body)
    return Answer(State.cut if reason == "length" else State.answered, content, "", body)


def usage_of(body: dict[str, Any], most: Usage) -> Usage:
    """Tokens as the server counts them, or the most that was reserved."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counted = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*(most_of if not isinstance(one, int) else one for one, most_of in zip(counted, (most.input, most.output), strict=True)))


def sentence(text: str) -> str:
    """What a response says in words: the message of an error, or the beginning of anything else."""
    try:
        body = json.loads(text)
        body = body[0] if isinstance(body, list) else body
        message = body["error"]["message"] if isinstance(body["error"], dict) else body["error"]
    except (ValueError, LookupError, TypeError):
        message = text
    return " ".join(str(message).split())[:300]


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header in either of its forms, a number or an HTTP date (RFC 9110, 10.2.3); None: neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
