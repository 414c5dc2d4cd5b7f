"""Make Prometheus metrics in our own registry and print them. Serving them is `health`'s."""

from __future__ import annotations

from collections.abc import Sequence

import prometheus_client

REGISTRY = prometheus_client.CollectorRegistry(auto_describe=False)
prometheus_client.ProcessCollector(registry=REGISTRY)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets for durations: from one kernel transaction to one stuck node."""


def counter(name: str, text: str, labels: Sequence[str] = ()) -> prometheus_client.Counter:
    """Make a counter; its name ends in `_total` when printed."""
    return prometheus_client.Counter(name, text, labels, registry=REGISTRY)


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> prometheus_client.Gauge:
    """Make a gauge."""
    return prometheus_client.Gauge(name, text, labels, registry=REGISTRY)


def histogram(
    name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
) -> prometheus_client.Histogram:
    """Make a histogram; names of durations end in `_seconds`."""
    return prometheus_client.Histogram(name, text, labels, registry=REGISTRY, buckets=buckets)


def text() -> bytes:
    """Return every metric in Prometheus' text format."""
    return prometheus_client.generate_latest(REGISTRY)
