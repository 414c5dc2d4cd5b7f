"""Count and time what the proxy does, under kube-proxy's metric names, so that existing dashboards and alerts work."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from netplane.lib import clock, metrics
from netplane_proxy.plan.forwarding import Kind, PortForwarding, PortKey
from netplane_proxy.plan.ledger import Steps

_SYNC = tuple(0.0001 * 2**power for power in range(18))
_PROGRAMMING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))

SYNC_SECONDS = metrics.histogram("kubeproxy_sync_proxy_rules_duration_seconds", "One sync.", buckets=_SYNC)
FULL_SYNC_SECONDS = metrics.histogram(
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "One sync of everything, kernel read included.",
    buckets=_SYNC,
)
PARTIAL_SYNC_SECONDS = metrics.histogram(
    "kubeproxy_sync_partial_proxy_rules_duration_seconds", "One sync of what changed.", buckets=_SYNC
)
PROGRAMMING_SECONDS = metrics.histogram(
    "kubeproxy_network_programming_duration_seconds",
    "From the change of a Service or pod to the rules that follow it.",
    buckets=_PROGRAMMING,
)
REACTION_SECONDS = metrics.histogram(
    "netplane_proxy_reaction_duration_seconds", "From watch event received to rules committed.", buckets=_SYNC
)
LAST_SYNC = metrics.gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When rules were last committed.")
LAST_QUEUED = metrics.gauge(
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a change of rules was last wanted."
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
    "kubeproxy_sync_proxy_rules_nftables_sync_failures", "Syncs that the kernel refused, in nftables mode."
)
_OTHER_FAILURES = metrics.counter(
    "kubeproxy_sync_proxy_rules_iptables_restore_failures", "Syncs that the kernel refused, in the other modes."
)
FAILURES = {"nftables": _NFTABLES_FAILURES, "iptables": _OTHER_FAILURES, "ipvs": _OTHER_FAILURES}
"""By mode, as kube-proxy names them: its IPVS mode has no name of its own."""
NO_LOCAL_ENDPOINTS = metrics.gauge(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "Service ports whose traffic policy is Local without an endpoint on this node.",
    ["traffic_policy"],
)
HEALTHZ = metrics.counter("kubeproxy_proxy_healthz", "Answers of /healthz.", ["code"])
LIVEZ = metrics.counter("kubeproxy_proxy_livez", "Answers of /livez.", ["code"])
FLOWS_DELETED = metrics.counter("kubeproxy_conntrack_reconciler_deleted_entries", "Stale flows forgotten.")
FLOWS_SECONDS = metrics.histogram(
    "kubeproxy_conntrack_reconciler_sync_duration_seconds", "One look for stale flows.", buckets=_SYNC
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


class LocalGaps:
    """Counts the Service ports that a Local policy leaves without a backend here, as they come and go."""

    def __init__(self) -> None:
        """Start with none."""
        self._keys: dict[str, set[PortKey]] = {"internal": set(), "external": set()}
        self._told = {policy: NO_LOCAL_ENDPOINTS.labels(policy) for policy in self._keys}

    def follow(self, steps: Steps) -> None:
        """Take the changes of one commit."""
        are_known = any(self._keys.values())
        for key, step in steps.items():
            missing = _gaps(step.now) if step.now else ()
            if not missing and not are_known:
                continue
            are_known = True
            for policy, keys in self._keys.items():
                if policy in missing:
                    keys.add(key)
                else:
                    keys.discard(key)
        if are_known:
            for policy, keys in self._keys.items():
                self._told[policy].set(len(keys))


def _gaps(row: PortForwarding) -> tuple[str, ...]:
    if row.local or not row.cluster:
        return ()
    return tuple([_POLICIES[frontend.kind] for frontend in row.frontends if frontend.kind in _POLICIES])


_POLICIES = {Kind.INTERNAL_LOCAL: "internal", Kind.EXTERNAL_LOCAL: "external"}


def programmed(triggers: Iterable[str], now: datetime) -> None:
    """Record how long ago the pods behind committed slices changed. Times that cannot be read are passed over."""
    for trigger in triggers:
        try:
            PROGRAMMING_SECONDS.observe(max(0.0, (now - clock.parse(trigger)).total_seconds()))
        except ValueError:
            continue
