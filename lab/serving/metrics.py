"""Counts for Prometheus. Labels are routes and models that are known here; nothing that a request says becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

UNMATCHED, NO_MODEL = "unmatched", "none"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """routes, models: all labels that there can be. waiting: how many questions wait."""

    def __init__(self, routes: Iterable[str], models: Iterable[str], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.routes, self.models = frozenset(routes), frozenset(models)
        ProcessCollector(registry=self.registry)
        self.requests = Counter("lab_requests", "Replies by route, model and status", ["route", "model", "status"], registry=self.registry)
        self.seconds = Histogram("lab_request_seconds", "Time to a whole reply", ["route"], buckets=SECONDS, registry=self.registry)
        self.batches = Histogram("lab_batch_questions", "Questions asked together", ["model"], buckets=SIZES, registry=self.registry)
        self.tokens = Counter("lab_tokens_written", "Tokens of answers", ["model"], registry=self.registry)
        Gauge("lab_waiting_questions", "Questions that wait for their batch", registry=self.registry).set_function(waiting)

    def replied(self, path: str, model: str | None, status: int, seconds: float) -> None:
        """Count a reply. path, model: as they were asked for."""
        route = path if path in self.routes else UNMATCHED
        self.requests.labels(route, model if model in self.models else NO_MODEL, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
