"""Count and time what the proxy does, as kube-proxy's metrics do, so that dashboards and alerts made for it work.

kube-proxy has a proxier for each IP family. Here one sync serves both; it counts for the families that it was about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from netplane.lib import clock, metrics
from netplane.model.address import Family
from netplane.model.service import Key
from netplane_proxy.plan.forwarding import Kind, PortForwarding, PortKey
from netplane_proxy.plan.ledger import Steps

_FAMILY = ["ip_family"]

_SYNC = tuple(0.0001 * 2**power for power in range(18))
_PROGRAMMING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))

SYNC_SECONDS = metrics.histogram("kubeproxy_sync_proxy_rules_duration_seconds", "One sync.", _FAMILY, buckets=_SYNC)
FULL_SYNC_SECONDS = metrics.histogram(
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "One sync of everything, kernel read included.",
    _FAMILY,
    buckets=_SYNC,
)
PARTIAL_SYNC_SECONDS = metrics.histogram(
    "kubeproxy_sync_partial_proxy_rules_duration_seconds", "One sync of what changed.", _FAMILY, buckets=_SYNC
)
PROGRAMMING_SECONDS = metrics.histogram(
    "kubeproxy_network_programming_duration_seconds",
    "From the change of a Service or pod to the rules that follow it.",
    _FAMILY,
    buckets=_PROGRAMMING,
)
REACTION_SECONDS = metrics.histogram(
    "netplane_proxy_reaction_duration_seconds", "From watch event received to rules committed.", buckets=_SYNC
)
_LAST_SYNC = metrics.gauge(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When rules were last committed.", _FAMILY
)
_LAST_QUEUED = metrics.gauge(
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a change of rules was last wanted.", _FAMILY
)
SERVICE_CHANGES = metrics.counter("kubeproxy_sync_proxy_rules_service_changes", "Changes of Services seen.")
ENDPOINT_CHANGES = metrics.counter("kubeproxy_sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices seen.")
SERVICE_CHANGES_PENDING = metrics.gauge(
    "kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services seen and not committed."
)
ENDPOINT_CHANGES_PENDING = metrics.gauge(
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices seen and not committed."
)
_NFTABLES_FAILURES = metrics.counter(
    "kubeproxy_sync_proxy_rules_nftables_sync_failures", "Syncs that the kernel refused, in nftables mode.", _FAMILY
)
_NFTABLES_CLEANUP_FAILURES = metrics.counter(
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures",
    "Tables that stood in for ours and that the kernel would not remove, in nftables mode.",
    _FAMILY,
)
_OTHER_FAILURES = metrics.counter(
    "kubeproxy_sync_proxy_rules_iptables_restore_failures", "Syncs that the kernel refused, in other modes.", _FAMILY
)
_PARTIAL_FAILURES = metrics.counter(
    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures",
    "Syncs of what changed that the kernel refused, in iptables mode; one of everything follows.",
    _FAMILY,
)
_RULES = metrics.gauge(
    "kubeproxy_sync_proxy_rules_iptables_total", "Rules of ours, in iptables mode.", ["table", *_FAMILY]
)
_RULES_WRITTEN = metrics.gauge(
    "kubeproxy_sync_proxy_rules_iptables_last",
    "Rules that the last sync wrote, in iptables mode.",
    ["table", *_FAMILY],
)
_FAILURES = {"nftables": _NFTABLES_FAILURES, "iptables": _OTHER_FAILURES, "ipvs": _OTHER_FAILURES}
"""By mode, as kube-proxy names them: its IPVS mode has no name of its own."""
_OF_MODE = {
    "nftables": (_NFTABLES_FAILURES, _NFTABLES_CLEANUP_FAILURES),
    "iptables": (_OTHER_FAILURES, _PARTIAL_FAILURES),
    "ipvs": (_OTHER_FAILURES,),
}
_NO_LOCAL_ENDPOINTS = metrics.gauge(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "Services whose traffic policy is Local without an endpoint on this node.",
    ["traffic_policy", *_FAMILY],
)
HEALTHZ = metrics.counter("kubeproxy_proxy_healthz", "Answers of /healthz.", ["code"])
LIVEZ = metrics.counter("kubeproxy_proxy_livez", "Answers of /livez.", ["code"])
_FLOWS_DELETED = metrics.counter("kubeproxy_conntrack_reconciler_deleted_entries", "Stale flows forgotten.", _FAMILY)
_FLOWS_SECONDS = metrics.histogram(
    "kubeproxy_conntrack_reconciler_sync_duration_seconds", "One look for stale flows.", _FAMILY, buckets=_SYNC
)
DRIFT = metrics.counter("netplane_proxy_drift", "Foreign changes of our rules that were repaired.")
MARK_CLASHES = metrics.gauge("netplane_proxy_mark_clashes", "Others' chains that use the masquerade bit, at start.")
OPERATIONS = metrics.counter("netplane_proxy_kernel_operations", "Elements added to and deleted from the kernel.")
PORTS = metrics.gauge("netplane_proxy_service_ports", "Service ports that are forwarded, both families counted.")


def seen(*, services: int, slices: int) -> None:
    """Count changes that came and wait to be committed."""
    if services:
        SERVICE_CHANGES.inc(services)
        SERVICE_CHANGES_PENDING.inc(services)
    if slices:
        ENDPOINT_CHANGES.inc(slices)
        ENDPOINT_CHANGES_PENDING.inc(slices)


class _Packets(Collector):
    """What the kernel counts by itself: read when somebody asks for the metrics."""

    def __init__(self) -> None:
        self.counted: dict[str, int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, packets in self.counted.items():
            yield CounterMetricFamily(name, _PACKETS[name], value=packets)


STRAYS = "kubeproxy_iptables_ct_state_invalid_dropped_packets"
LOCALHOST = "kubeproxy_iptables_localhost_nodeports_accepted_packets"
_PACKETS = {
    STRAYS: "Packets of no known connection that were dropped, in iptables mode.",
    LOCALHOST: "Connections to NodePorts at loopback addresses that were accepted, by their first packets.",
}
_KERNELS = _Packets()
metrics.REGISTRY.register(_KERNELS)


def begin(mode: str) -> None:
    """Show at zero what is counted in a mode: an alert on a rise needs something to rise from."""
    for metric in (SYNC_SECONDS, FULL_SYNC_SECONDS, PARTIAL_SYNC_SECONDS, PROGRAMMING_SECONDS, _FLOWS_SECONDS):
        for family in Family:
            metric.labels(str(family))
    for counter in (_FLOWS_DELETED, *_OF_MODE[mode]):
        for family in Family:
            counter.labels(str(family))


def queued(now: datetime) -> None:
    """Note when a change was wanted."""
    for family in Family:
        _LAST_QUEUED.labels(str(family)).set(now.timestamp())


def committed(now: datetime) -> None:
    """Note when the kernel held what was wanted."""
    for family in Family:
        _LAST_SYNC.labels(str(family)).set(now.timestamp())


def synced(families: Iterable[Family], seconds: float, *, is_full: bool) -> None:
    """Record a sync for the families that it was about."""
    for name in map(str, families):
        SYNC_SECONDS.labels(name).observe(seconds)
        (FULL_SYNC_SECONDS if is_full else PARTIAL_SYNC_SECONDS).labels(name).observe(seconds)


def failed(mode: str, families: Iterable[Family], *, is_full: bool) -> None:
    """Count a sync that the kernel refused, for the families that it was about."""
    for name in map(str, families):
        _FAILURES[mode].labels(name).inc()
        if mode == "iptables" and not is_full:
            _PARTIAL_FAILURES.labels(name).inc()


def not_cleaned(families: Iterable[Family]) -> None:
    """Count tables that stood in for ours and are still there."""
    for family in families:
        _NFTABLES_CLEANUP_FAILURES.labels(str(family)).inc()


def rules(family: Family, table: str, *, there: int, written: int) -> None:
    """Say how many rules are ours in a table of iptables, and how many the last sync wrote."""
    _RULES.labels(table, str(family)).set(there)
    _RULES_WRITTEN.labels(table, str(family)).set(written)


def packets(counted: Mapping[str, int]) -> None:
    """Say what the kernel counted of STRAYS and LOCALHOST; what could not be read is not shown."""
    _KERNELS.counted = dict(counted)


def swept(family: Family, deleted: int, seconds: float) -> None:
    """Record one look for stale flows."""
    _FLOWS_SECONDS.labels(str(family)).observe(seconds)
    if deleted:
        _FLOWS_DELETED.labels(str(family)).inc(deleted)


class LocalGaps:
    """Counts the Services that a Local policy leaves without a backend here, as they come and go."""

    def __init__(self) -> None:
        """Start with none."""
        self._ports: dict[tuple[str, Family], dict[Key, set[PortKey]]] = {
            (policy, family): {} for policy in _POLICIES.values() for family in Family
        }
        self._told = {(policy, family): _NO_LOCAL_ENDPOINTS.labels(policy, str(family))
                      for policy, family in self._ports}  # fmt: skip

    def follow(self, steps: Steps) -> None:
        """Take the changes of one commit."""
        are_known = any(self._ports.values())
        for key, step in steps.items():
            missing = _gaps(step.now) if step.now else ()
            if not missing and not are_known:
                continue
            are_known = True
            for policy in _POLICIES.values():
                self._note(self._ports[policy, key.family], key, is_missing=policy in missing)
        if are_known:
            for where, services in self._ports.items():
                self._told[where].set(len(services))

    def _note(self, services: dict[Key, set[PortKey]], key: PortKey, *, is_missing: bool) -> None:
        service = key.namespace, key.service
        if is_missing:
            services.setdefault(service, set()).add(key)
        elif (ports := services.get(service)) is not None:
            ports.discard(key)
            if not ports:
                del services[service]


def _gaps(row: PortForwarding) -> tuple[str, ...]:
    if row.local or not row.cluster:
        return ()
    return tuple([_POLICIES[frontend.kind] for frontend in row.frontends if frontend.kind in _POLICIES])


_POLICIES = {Kind.INTERNAL_LOCAL: "internal", Kind.EXTERNAL_LOCAL: "external"}


def programmed(triggers: Iterable[tuple[Family, str]], now: datetime) -> None:
    """Record how long ago the pods behind committed slices changed. Times that cannot be read are passed over."""
    for family, trigger in triggers:
        try:
            seconds = max(0.0, (now - clock.parse(trigger)).total_seconds())
        except ValueError:
            continue
        PROGRAMMING_SECONDS.labels(str(family)).observe(seconds)
