"""Give every Node its own pod address ranges, out of the cluster's, never the same twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network

from netplane.controlplane.controllers import writes
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import NODES, Key, Object

Network = IPv4Network | IPv6Network


def decide(view: View, key: Key, now: datetime, *, config: ControllerConfig) -> Sequence[writes.Write]:
    """Return the patch that gives a Node its ranges, or the Event that none are left.

    What is given away is read from the Nodes themselves, so a restart forgets nothing.
    """
    node = view.get(NODES, key)
    if node is None or meta.is_deleting(node) or node["spec"].get("podCIDR") or not config.cluster_cidrs:
        return ()
    taken = [found for other in view.all(NODES) for found in ranges(other)]
    chosen = []
    for text in config.cluster_cidrs:
        cluster = ip_network(text)
        mask = config.node_mask_v4 if cluster.version == 4 else config.node_mask_v6
        found = first_free(cluster, mask, taken)
        if found is None:
            told = f"Node {key[1]} status is now: CIDRNotAvailable"
            return [writes.Event(node, "Warning", "CIDRNotAvailable", told), writes.Requeue(30)]
        chosen.append(str(found))
    guard = {"uid": node["metadata"]["uid"], "resourceVersion": node["metadata"]["resourceVersion"]}
    return [writes.Patch(NODES, key, {"metadata": guard, "spec": {"podCIDR": chosen[0], "podCIDRs": chosen}})]


def ranges(node: Object) -> list[Network]:
    """Return the ranges a Node holds."""
    spec = node["spec"]
    texts = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return [ip_network(text, strict=False) for text in texts]


def first_free(cluster: Network, mask: int, taken: Iterable[Network]) -> Network | None:
    """Return the lowest range of that size in the cluster's which overlaps nothing taken, or None."""
    if mask < cluster.prefixlen:
        return None
    step = 1 << (cluster.max_prefixlen - mask)
    first, last = int(cluster.network_address), int(cluster.broadcast_address)
    held = sorted(
        (int(found.network_address), int(found.broadcast_address))
        for found in taken
        if found.version == cluster.version
    )
    at = first
    for start, end in held:
        if end < at or start > last:
            continue
        if start >= at + step:
            break
        at = first + ((end - first) // step + 1) * step
    if at + step - 1 > last:
        return None
    return type(cluster)((at, mask))
