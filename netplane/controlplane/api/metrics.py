"""Count what the server does, under the names that dashboards of the real API server ask for."""

from __future__ import annotations

from netplane.lib import metrics

_LABELS = ("verb", "group", "version", "resource", "subresource", "scope")

REQUESTS = metrics.counter(
    "apiserver_request", "Requests, by what they asked for and the code of the answer.", (*_LABELS, "code")
)
SECONDS = metrics.histogram(
    "apiserver_request_duration_seconds",
    "Time from the request's head to the end of its answer.",
    _LABELS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
INFLIGHT = metrics.gauge("apiserver_current_inflight_requests", "Requests being served.", ("request_kind",))
WATCHERS = metrics.gauge("apiserver_longrunning_requests", "Watches and streams being served.", _LABELS)
OBJECTS = metrics.gauge("apiserver_storage_objects", "Objects in the store.", ("resource",))
REVISION = metrics.gauge("netplane_store_revision", "The newest committed revision.")
STAGED = metrics.gauge("netplane_store_staged_writes", "Writes on their way to the disk.")

MUTATING = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Meters:
    """The counters of one kind of request, found once: label lookup costs more than counting."""

    __slots__ = ("_by_code", "_labels", "inflight", "seconds", "watchers")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._by_code: dict[int, object] = {}
        self.seconds = SECONDS.labels(*labels)
        self.watchers = WATCHERS.labels(*labels)
        self.inflight = INFLIGHT.labels("mutating" if labels[0] in MUTATING else "readOnly")

    def done(self, code: int, seconds: float) -> None:
        """Count one answer."""
        REQUESTS.labels(*self._labels, str(code)).inc()
        self.seconds.observe(seconds)


_METERS: dict[tuple[str, ...], Meters] = {}


def of(*labels: str) -> Meters:
    """Return the meters of (verb, group, version, resource, subresource, scope)."""
    found = _METERS.get(labels)
    if found is None:
        found = _METERS[labels] = Meters(labels)
    return found
