"""What a request must pass before a route sees it: where it says that it is addressed, who sends it, how large and how fast it is."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lab.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_S = 30.0
"""Seconds in which a body must have come."""
HELD_BYTES = 512 * 1024 * 1024
"""Of all bodies together that are received or waited for."""
HEAD_BYTES = 16 * 1024
"""Of a request's line and headers."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Refusal = tuple[int, str | None, str]
"""Status, field and reason."""
BUSY: Refusal = (429, None, "other requests hold as much as this server keeps at once. Try again.")


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    hosts: names it answers to beside loopback. token: of `Authorization: Bearer`; None: none is asked for. media: hosts it fetches from.
    """

    hosts: tuple[str, ...] = ()
    token: str | None = None
    body: int = 20 * 1024 * 1024
    queue: int = 256
    tokens: int = 1024
    seconds: float = 120.0
    media: tuple[str, ...] = ()


def error_body(field: str | None, reason: str, code: str | None = None) -> bytes:
    """An error as the OpenAI protocol has it, in at most 1 KB, whatever field and reason are."""
    name = None if field is None else printable(field)[:200]
    sentence = printable(reason if name is None else f"{name}: {reason}")[:400]
    error = {"message": sentence, "type": "invalid_request_error", "param": name, "code": code}
    return json.dumps({"error": error}).encode()


def printable(text: str) -> str:
    """Without characters that are more than one byte in JSON."""
    return re.sub(r"[^ -~]|[\"\\]", "?", text)


def host_of(value: str) -> str:
    """The name of a Host header or an origin's address, without its port, in lower case."""
    try:
        return (urlsplit(f"//{value}").hostname or "").lower()
    except ValueError:
        return ""


class Guard:
    """An ASGI application before another. is_open: whether a path needs no token."""

    def __init__(self, app: Any, limits: Limits, metrics: Metrics, is_open: Callable[[str], bool]) -> None:
        self.app, self.limits, self.metrics, self.is_open = app, limits, metrics, is_open
        self.hosts = frozenset((*LOOPBACK, *(host.lower() for host in limits.hosts)))
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
            await send(message)

        held = Held(self)
        try:
            refusal, body = self.refusal(scope), b""
            if refusal is None:
                refusal, body = await self.body(held, receive)
            if refusal is not None:
                await refuse(sending, *refusal)
                return
            scope.setdefault("state", {})["held"] = held
            await self.app(scope, first(body, receive), sending)
        finally:
            held.release()
            self.metrics.replied(scope["path"], scope.get("state", {}).get("model"), status, time.monotonic() - started)

    def refusal(self, scope: Scope) -> Refusal | None:
        """By the head alone; None where it may go on."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            return 431, None, f"its headers are longer than {HEAD_BYTES // 1024} KB."
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if host_of(headers.get("host", "")) not in self.hosts:
            return 403, "Host", "this server does not answer to that name. It answers to loopback, and to names given by --allow-host."
        origin = headers.get("origin")
        if origin is not None and host_of(origin.partition("://")[2]) not in self.hosts:
            return 403, "Origin", "pages of other sites may not ask this server."
        if self.limits.token is not None and not self.is_open(scope["path"]):
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.limits.token.encode()):
                return 401, "Authorization", "give the server's token, as Bearer TOKEN."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self.limits.body:
            return 413, None, self.too_large
        if self.held + int(length) > HELD_BYTES:
            return BUSY
        return None

    @property
    def too_large(self) -> str:
        return f"the body is larger than {self.limits.body // 1024 // 1024} MB (--max-body)."

    async def body(self, held: Held, receive: Receive) -> tuple[Refusal | None, bytes]:
        """The whole body, within limits of size and time; or why it is refused."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return (499, None, "the client left."), b""
                    parts.append(message.get("body", b""))
                    held.take(len(parts[-1]))
                    if held.size > self.limits.body:
                        return (413, None, self.too_large), b""
                    if self.held > HELD_BYTES:
                        return BUSY, b""
                    if not message.get("more_body", False):
                        return None, b"".join(parts)
        except TimeoutError:
            return (408, None, f"the body did not come within {BODY_S:.0f} seconds."), b""


class Held:
    """Bytes of one request's body, counted among those of all until they are released."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.size = guard, 0

    def take(self, size: int) -> None:
        """So many more."""
        self.size += size
        self.guard.held += size

    def release(self) -> None:
        """All of them."""
        self.guard.held -= self.size


def first(body: bytes, receive: Receive) -> Receive:
    """The body at once; what comes behind it, that the client left, as it comes."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def refuse(send: Send, status: int, field: str | None, reason: str) -> None:
    """Send an error, and close a connection whose body may not have been read."""
    body = error_body(field, reason)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else [(b"retry-after", b"1")] if status == 429 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
