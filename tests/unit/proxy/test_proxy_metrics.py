"""The metrics have kube-proxy's names and labels, so that dashboards and alerts made for it go on working."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from netplane.lib import clock, metrics
from netplane.model import address
from netplane.model.address import Family
from netplane_proxy.plan.forwarding import Frontend, Kind, PortForwarding, PortKey
from netplane_proxy.plan.ledger import Step
from netplane_proxy.run import telemetry
from netplane_proxy.run.health import Pulse
from tests.support.clusters import backend
from tests.support.ports import TCP

EVERYWHERE = [
    "sync_proxy_rules_duration_seconds_count",
    "sync_full_proxy_rules_duration_seconds_count",
    "sync_partial_proxy_rules_duration_seconds_count",
    "network_programming_duration_seconds_count",
    "sync_proxy_rules_last_timestamp_seconds",
    "sync_proxy_rules_last_queued_timestamp_seconds",
    "conntrack_reconciler_deleted_entries_total",
    "conntrack_reconciler_sync_duration_seconds_count",
]
OF_MODE = {
    "nftables": ["sync_proxy_rules_nftables_sync_failures_total", "sync_proxy_rules_nftables_cleanup_failures_total"],
    "iptables": [
        "sync_proxy_rules_iptables_restore_failures_total",
        "sync_proxy_rules_iptables_partial_restore_failures_total",
    ],
    "ipvs": ["sync_proxy_rules_iptables_restore_failures_total"],
}
WITHOUT_FAMILY = [
    "sync_proxy_rules_endpoint_changes_pending",
    "sync_proxy_rules_endpoint_changes_total",
    "sync_proxy_rules_service_changes_pending",
    "sync_proxy_rules_service_changes_total",
    'proxy_healthz_total{code="200"}',
    'proxy_livez_total{code="200"}',
]


def shown(name: str) -> float | None:
    """What a sample of kube-proxy's shows; None when it is not there."""
    values = [line.rpartition(" ") for line in metrics.text().decode().splitlines()]
    return next((float(value) for sample, _, value in values if sample == f"kubeproxy_{name}"), None)


def of(name: str, family: Family = Family.V4, **labels: str) -> float | None:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return shown(f'{name}{{ip_family="{family}"{more}}}')


@pytest.mark.parametrize("mode", OF_MODE)
def test_the_metrics_of_kube_proxy_are_there_from_the_start(mode: str) -> None:
    telemetry.begin(mode)
    telemetry.LocalGaps()
    pulse = Pulse(clock.SYSTEM)
    pulse.wanted()
    pulse.committed()
    for answer in (pulse.healthz, pulse.livez):
        answer(make_mocked_request("GET", "/"))
    assert [name for name in WITHOUT_FAMILY if shown(name) is None] == []
    for family in Family:
        assert [name for name in (*EVERYWHERE, *OF_MODE[mode]) if of(name, family) is None] == []
        for policy in ("internal", "external"):
            assert of("sync_proxy_rules_no_local_endpoints_total", family, traffic_policy=policy) is not None


def test_a_sync_counts_for_the_families_that_it_was_about() -> None:
    names = [f"sync_{kind}proxy_rules_duration_seconds_count" for kind in ("", "full_", "partial_")]
    telemetry.begin("iptables")
    before = {family: [of(name, family) or 0 for name in names] for family in Family}
    telemetry.synced([Family.V6], 0.1, is_full=False)
    telemetry.synced(Family, 0.1, is_full=True)
    after = {family: [of(name, family) or 0 for name in names] for family in Family}
    more = {family: [a - b for a, b in zip(after[family], before[family], strict=True)] for family in Family}
    assert more == {Family.V4: [1, 1, 0], Family.V6: [2, 1, 1]}


def test_a_failed_sync_of_what_changed_is_a_partial_one_by_iptables_alone() -> None:
    restores, partial = OF_MODE["iptables"]
    for mode in OF_MODE:
        telemetry.begin(mode)
    before = [of(restores) or 0, of(partial) or 0]
    telemetry.failed("iptables", [Family.V4], is_full=False)
    telemetry.failed("iptables", [Family.V4], is_full=True)
    telemetry.failed("ipvs", [Family.V4], is_full=False)
    telemetry.failed("nftables", [Family.V4], is_full=False)
    assert [of(restores), of(partial)] == [before[0] + 3, before[1] + 1]


def gap(port: str, *, has_local: bool) -> PortForwarding:
    ip = address.parse("10.96.0.1")
    front = Frontend(ip, TCP, len(port), Kind.INTERNAL_LOCAL)
    one = backend("10.244.1.1:80")
    return PortForwarding(
        PortKey("default", "web", port, TCP, Family.V4), (one,), (one,) if has_local else (), 0, (front,)
    )


def test_a_service_without_local_endpoints_counts_once_whatever_its_ports() -> None:
    def missing() -> float | None:
        return of("sync_proxy_rules_no_local_endpoints_total", traffic_policy="internal")

    gaps, ports = telemetry.LocalGaps(), [gap("a", has_local=False), gap("bc", has_local=False)]
    gaps.follow({row.key: Step(None, row) for row in ports})
    assert missing() == 1
    gaps.follow({ports[0].key: Step(ports[0], gap("a", has_local=True))})
    assert missing() == 1
    gaps.follow({ports[1].key: Step(ports[1], None)})
    assert missing() == 0


def test_what_the_kernel_counts_is_shown_as_it_was_read() -> None:
    telemetry.packets({telemetry.STRAYS: 7})
    assert shown("iptables_ct_state_invalid_dropped_packets_total") == 7
    assert shown("iptables_localhost_nodeports_accepted_packets_total") is None
    telemetry.packets({})
