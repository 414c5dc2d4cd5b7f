"""What the door tells Prometheus: its own acts, and the engine's counts named after Ingresses and Services."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from netplane.edge.ingress.plan.state import Command
from netplane.edge.ingress.run.engine import Counts
from netplane.lib import clock as clocks
from netplane.lib import metrics

COMMIT = metrics.histogram(
    "netplane_ingress_commit_seconds", "From the first byte of a change to its being in the engine."
)
READ = metrics.histogram("netplane_ingress_read_seconds", "Reading all routes anew.")
ROUTES = metrics.gauge("netplane_ingress_routes", "Routes served.")
FINDINGS = metrics.gauge("netplane_ingress_findings", "Faults found in objects at the moment.")
REPAIRS = metrics.counter("netplane_ingress_repairs", "Times the engine was found to differ from what it was told.")
EXPIRY = metrics.gauge(
    "netplane_ingress_certificate_expiry_seconds", "When a served certificate ends, as Unix time.", ["secret"]
)

_BACKENDS: Final = 2
_OWNER_COUNTS: Final = {
    "http_req_cnt": ("netplane_ingress_requests", "Requests by Ingress or HTTPRoute."),
    "http_err_cnt": ("netplane_ingress_client_errors", "Answers 4xx by Ingress or HTTPRoute."),
    "gpc0": ("netplane_ingress_server_errors", "Answers 5xx by Ingress or HTTPRoute."),
    "bytes_in_cnt": ("netplane_ingress_received_bytes", "Bytes from clients by Ingress or HTTPRoute."),
    "bytes_out_cnt": ("netplane_ingress_sent_bytes", "Bytes to clients by Ingress or HTTPRoute."),
}
_SERVICE_COUNTS: Final = {
    "stot": ("netplane_ingress_service_sessions", "Requests given to endpoints by Service."),
    "econ": ("netplane_ingress_service_connect_errors", "Failures to connect by Service."),
    "wretr": ("netplane_ingress_service_retries", "Tries after a failure by Service."),
    "hrsp_5xx": ("netplane_ingress_service_server_errors", "Answers 5xx of endpoints by Service."),
}
_SERVICE_GAUGES: Final = {
    "scur": ("netplane_ingress_service_current", "Requests with endpoints at the moment by Service."),
    "act": ("netplane_ingress_service_endpoints", "Endpoints that take requests by Service."),
    "rtime": ("netplane_ingress_service_response_milliseconds", "Mean of the last 1024 answers by Service."),
}


class EngineMetrics(Collector):
    """Prints the newest answers of the engine; `update` takes them."""

    def __init__(self, counts: Counts, clock: clocks.Clock) -> None:
        self._counts = counts
        self._clock = clock
        self.read_at = clock.monotonic()
        """When they were printed last; at first, when they were made."""
        self._owners: list[tuple[list[str], dict[str, float]]] = []
        self._services: list[tuple[list[str], dict[str, float]]] = []
        metrics.REGISTRY.register(self)

    def update(self, table: str, stats: Iterable[str], slots: Mapping[str, str]) -> None:
        """Take the answers to `show table owners` and to `stat_of` each slot, and which use each slot has."""
        self._owners = list(_owners(table))
        self._services = [row for one in stats for row in _services(one.removeprefix("# ").splitlines(), slots)]

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        self.read_at = self._clock.monotonic()
        counts = self._counts
        for name, number in (("starts", counts.starts), ("reloads", counts.reloads), ("adoptions", counts.adoptions)):
            yield CounterMetricFamily(f"netplane_ingress_{name}", f"The engine's {name}.", value=number)
        yield CounterMetricFamily("netplane_ingress_commands", "Commands the engine was given.", value=counts.commands)
        yield from _families(_OWNER_COUNTS, CounterMetricFamily, ["kind", "namespace", "name"], self._owners)
        labels = ["namespace", "service", "port", "slot"]
        yield from _families(_SERVICE_COUNTS, CounterMetricFamily, labels, self._services)
        yield from _families(_SERVICE_GAUGES, GaugeMetricFamily, labels, self._services)


def stat_of(slot: str) -> Command:
    """Return the command that prints the counts of one slot, without those of its servers."""
    return Command(f"show stat {slot} {_BACKENDS} -1", accepts=("# pxname",), is_optional=True)


def _families(
    named: Mapping[str, tuple[str, str]],
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    labels: list[str],
    rows: Iterable[tuple[list[str], dict[str, float]]],
) -> Iterator[Metric]:
    for field, (name, text) in named.items():
        family = kind(name, text, labels=labels)
        for values, numbers in rows:
            if field in numbers:
                family.add_metric(values, numbers[field])
        yield family


def _owners(table: str) -> Iterator[tuple[list[str], dict[str, float]]]:
    """Sum the rows of each owner: what is found at once is counted by owner and Service, as its record names both."""
    found: dict[tuple[str, ...], Counter[str]] = {}
    for line in table.splitlines():
        key = re.search(r" key=(\w+)/([^/ ]*)/([^\s\"]+)", line)
        if key:
            numbers = {name: int(number) for name, number in re.findall(r"(\w+_cnt|gpc0)=(\d+)", line)}
            found.setdefault(key.groups(), Counter()).update(numbers)
    for owner, sums in found.items():
        yield list(owner), {name: float(number) for name, number in sums.items()}


def _services(lines: list[str], slots: Mapping[str, str]) -> Iterator[tuple[list[str], dict[str, float]]]:
    head = lines[0].split(",") if lines else []
    for line in lines[1:]:
        words = line.split(",")
        use = slots.get(words[0])
        if use is None or words[1:2] != ["BACKEND"]:
            continue
        namespace, _, rest = use.partition("|")[0].partition("/")
        name, _, port = rest.rpartition(":")
        fields = dict(zip(head, words, strict=False))
        numbers = {field: float(fields[field]) for field in (*_SERVICE_COUNTS, *_SERVICE_GAUGES) if fields.get(field)}
        yield [namespace, name, port, words[0]], numbers
