"""Make the objects that a cluster always has: namespaces, roles, and the Service of the API itself."""

from __future__ import annotations

import copy

import orjson

from netplane.controlplane.api import bootstrap, cluster, peers, render
from netplane.controlplane.registry import strategy
from netplane.controlplane.store import protocol
from netplane.kube.types import Object

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_PORTS = "https"


class BadDefault(Exception):
    """A built-in object does not pass our own rules: a bug of ours, told at start."""


async def ensure(at: cluster.Cluster) -> None:
    """Create what is missing and put right what an upgrade or another address has changed. Safe at every start."""
    for name in NAMESPACES:
        await _ensure(at, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for role in (*bootstrap.cluster_roles(), *bootstrap.cluster_role_bindings(), *bootstrap.namespaced_roles()):
        await _ensure(at, role, keeps=("rules", "aggregationRule", "roleRef", "subjects"))
    for priority in bootstrap.priority_classes():
        await _ensure(at, priority)
    await ensure_service(at)


async def ensure_service(at: cluster.Cluster) -> None:
    """Have the Service `kubernetes` and its endpoints; somebody may have deleted them with all others."""
    await _ensure(at, _service(at))
    await _ensure(at, _range(at), keeps=("spec",))
    if peers.reachable(at):
        # On loopback alone no pod could reach us: the Service stays without endpoints, which says so.
        await _ensure(at, _endpoints(at), keeps=("subsets",))
        await _ensure(at, _slice(at), keeps=("endpoints", "ports"))


async def _ensure(at: cluster.Cluster, obj: Object, *, keeps: tuple[str, ...] = ()) -> None:
    try:
        await _ensured(at, obj, keeps=keeps)
    except (protocol.Exists, protocol.Conflict, protocol.Missing):
        return  # another server was faster, with the same


async def _ensured(at: cluster.Cluster, obj: Object, *, keeps: tuple[str, ...]) -> None:
    group, _, version = obj["apiVersion"].rpartition("/")
    of = at.registry.find_kind(group, version, obj["kind"])
    if of is None:
        raise BadDefault(f"{obj['apiVersion']} {obj['kind']} is not served")
    namespace = obj["metadata"].get("namespace", "")
    record = at.store.latest(cluster.storage(of), (namespace, obj["metadata"]["name"]))
    if record is None:
        strategy.read(of, obj)
        found = strategy.create(of, obj, namespace=namespace, now=at.now(), uid=cluster.new_uid())
        if found:
            raise BadDefault(f"{obj['kind']} {obj['metadata']['name']}: {'; '.join(map(str, found))}")
        await at.store.create(cluster.storage(of), obj)
        return
    old = render.decoded(of, record)
    annotations = old["metadata"].get("annotations") or {}
    if annotations.get("rbac.authorization.kubernetes.io/autoupdate") == "false":
        return
    new = copy.deepcopy(old)
    for field in keeps:
        if field in obj:
            new[field] = obj[field]
    if orjson.dumps(new) != orjson.dumps(old):
        await at.store.update(cluster.storage(of), new, expected=record.revision)


def _service(at: cluster.Cluster) -> Object:
    addresses = [str(cidr[1]) for cidr in at.settings.service_cidrs[:1]]
    family = "IPv6" if at.settings.service_cidrs[0].version == 6 else "IPv4"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "type": "ClusterIP",
            "ports": [{"name": _PORTS, "port": 443, "protocol": "TCP", "targetPort": peers.port(at)}],
        },
    }


def _range(at: cluster.Cluster) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [str(cidr) for cidr in at.settings.service_cidrs]},
    }


def _endpoints(at: cluster.Cluster) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": each} for each in peers.reachable(at)],
                "ports": [{"name": _PORTS, "port": peers.port(at), "protocol": "TCP"}],
            }
        ],
    }


def _slice(at: cluster.Cluster) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": f"IPv{at.settings.advertise.version}",
        "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in peers.reachable(at)],
        "ports": [{"name": _PORTS, "port": peers.port(at), "protocol": "TCP"}],
    }
