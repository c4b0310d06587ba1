"""What a connection must do to stay open, beyond uvicorn's own rules: send a whole request head soon, and not be the oldest idle of too many."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from lab.serving.guard import HEAD_BYTES

HEAD_S = 10.0
"""Seconds in which the first head of a connection must be complete."""
MOST_IDLE = 1024
"""Connections without a request that stay open; of more the oldest is closed, so that whoever asks at once is always let in."""


class Connection(H11Protocol):
    """One connection. `idle` are those of the process that have sent no whole head, the oldest first."""

    idle: dict[Connection, None] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle[self] = None
        self.late = self.loop.call_later(HEAD_S, transport.close)
        if len(self.idle) > MOST_IDLE:
            oldest = next(iter(self.idle))
            oldest.busy()
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:
            self.busy()

    def connection_lost(self, exc: Exception | None) -> None:
        self.busy()
        super().connection_lost(exc)

    def busy(self) -> None:
        """It has sent a head, or is closed: uvicorn's own limits of time hold from here."""
        self.idle.pop(self, None)
        self.late.cancel()


def options(backlog: int) -> dict[str, Any]:
    """For `uvicorn.Config`."""
    return {"http": Connection, "ws": "none", "h11_max_incomplete_event_size": HEAD_BYTES, "timeout_keep_alive": 10, "backlog": backlog}
