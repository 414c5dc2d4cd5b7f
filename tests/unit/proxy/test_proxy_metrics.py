"""The metrics have kube-proxy's names, so that dashboards and alerts made for it go on working."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from netplane.lib import clock, metrics
from netplane_proxy.run import telemetry
from netplane_proxy.run.health import Pulse


@pytest.mark.parametrize(
    "name",
    [
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count",
        "kubeproxy_network_programming_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        'kubeproxy_proxy_healthz_total{code="200"}',
        'kubeproxy_proxy_livez_total{code="200"}',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"}',
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count",
    ],
)
def test_a_metric_of_kube_proxy_is_there(name: str) -> None:
    telemetry.LocalGaps().follow({})
    pulse = Pulse(clock.SYSTEM)
    for answer in (pulse.healthz, pulse.livez):
        answer(make_mocked_request("GET", "/"))
    lines = metrics.text().decode().splitlines()
    assert any(line.startswith(f"{name} ") for line in lines), "\n".join(lines)
