"""The metrics have kube-proxy's names, so that dashboards and alerts made for it go on working."""

from __future__ import annotations

import pytest

from netplane.lib import metrics
from netplane_proxy.run import telemetry


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
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"}',
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count",
    ],
)
def test_a_metric_of_kube_proxy_is_there(name: str) -> None:
    telemetry.LocalGaps().follow({})
    lines = metrics.text().decode().splitlines()
    assert any(line.startswith(f"{name} ") for line in lines), "\n".join(lines)
