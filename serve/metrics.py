"""Prometheus metrics of the service. No label holds a text or a user."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "micro_rm_requests", "Requests.", ("path", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "micro_rm_request_seconds", "Time to answer.", ("path",), registry=self._registry
        )
        self.batch = Histogram(
            "micro_rm_batch_requests",
            "Requests that were computed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self._registry,
        )
        self.texts = Counter("micro_rm_texts", "Responses scored.", registry=self._registry)

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read at every scrape."""
        Gauge(f"micro_rm_{name}", help_text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
