"""Count what the server does, under the names that dashboards of the real API server ask for."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterator

from prometheus_client import metrics_core as core
from prometheus_client import registry

from netplane.lib import metrics

_LABELS = ("verb", "group", "version", "resource", "subresource", "scope", "dry_run")
_COMPONENT = ("component", "apiserver")

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OBJECTS = metrics.gauge("apiserver_storage_objects", "Objects in the store.", ("resource",))
REVISION = metrics.gauge("netplane_store_revision", "The newest committed revision.")
STAGED = metrics.gauge("netplane_store_staged_writes", "Writes on their way to the disk.")

MUTATING = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_MUTATING = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
"""The same in the words of metrics."""


class Level:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1

    def dec(self) -> None:
        """One less."""
        self.value -= 1

    @contextlib.contextmanager
    def track_inprogress(self) -> Iterator[None]:
        """Count what is done within."""
        self.value += 1
        try:
            yield
        finally:
            self.value -= 1


_INFLIGHT = {"mutating": Level(), "readOnly": Level()}


class Meters:
    """The counts of one kind of request: plain numbers of the loop's own, made into metrics when these are asked for.

    A metric of the library's takes a lock for each bucket: for a small request that was a tenth of its time.
    """

    __slots__ = ("answers", "codes", "inflight", "labels", "seconds", "watchers")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.codes: dict[int, int] = {}
        self.answers = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0
        self.watchers = Level()
        self.inflight = _INFLIGHT["mutating" if labels[0] in _MUTATING else "readOnly"]

    def done(self, code: int, seconds: float) -> None:
        """Count one answer."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.answers[bisect.bisect_left(_BUCKETS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many answers took at most as long as each bucket's bound."""
        bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
        return list(zip(bounds, itertools.accumulate(self.answers), strict=True))


_MOST_KINDS = 10_000
_ALL_OTHERS = ("OTHER", *[""] * (len(_LABELS) - 1))
"""What is counted as one when there are too many kinds: anybody may ask for paths that are not there."""
_METERS: dict[tuple[str, ...], Meters] = {}


def of(*labels: str) -> Meters:
    """Return the meters of (verb, group, version, resource, subresource, scope, dry run), the verb as POST or LIST."""
    found = _METERS.get(labels)
    if found is None:
        if len(_METERS) >= _MOST_KINDS:
            labels = _ALL_OTHERS
        found = _METERS.setdefault(labels, Meters(labels))
    return found


class _Requests(registry.Collector):
    """Tells the counts of all requests, when asked."""

    def collect(self) -> Iterator[core.Metric]:
        requests = core.CounterMetricFamily(
            "apiserver_request",
            "Requests, by what they asked for and the code of the answer.",
            labels=(_COMPONENT[0], *_LABELS, "code"),
        )
        seconds = core.HistogramMetricFamily(
            "apiserver_request_duration_seconds",
            "Time from the request's head to the end of its answer.",
            labels=(_COMPONENT[0], *_LABELS),
        )
        watchers = core.GaugeMetricFamily(
            "apiserver_longrunning_requests", "Watches and streams being served.", labels=(_COMPONENT[0], *_LABELS[:-1])
        )
        inflight = core.GaugeMetricFamily(
            "apiserver_current_inflight_requests", "Requests being served.", labels=("request_kind",)
        )
        longrunning: dict[tuple[str, ...], int] = {}
        for labels, each in list(_METERS.items()):
            told = (_COMPONENT[1], *labels)
            for code, count in each.codes.items():
                requests.add_metric((*told, str(code)), count)
            seconds.add_metric(told, each.buckets(), each.seconds)
            held = told[:-1]  # a dry run is not told apart here
            longrunning[held] = longrunning.get(held, 0) + each.watchers.value
        for told, count in longrunning.items():
            watchers.add_metric(told, count)
        for kind, level in _INFLIGHT.items():
            inflight.add_metric((kind,), level.value)
        yield from (requests, seconds, watchers, inflight)


metrics.REGISTRY.register(_Requests())
