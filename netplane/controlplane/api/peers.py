"""Know the servers that share the cluster: each renews a Lease, and the Service `kubernetes` leads to all of them.

As Kubernetes' own lease reconciler does it (pkg/controlplane/reconcilers/lease.go), with Leases that can be looked at.
A server with a store of its own is alone and needs none.
"""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import timedelta

import orjson

from netplane.controlplane.api import cluster
from netplane.controlplane.store import history, protocol
from netplane.kube.types import Object
from netplane.lib import clock

_STORAGE = "leases.coordination.k8s.io"
_NAMESPACE = "kube-system"
_LABEL = ("netplane.io/serves", "api")
_SECONDS = 40


async def renew(at: cluster.Cluster) -> None:
    """Say that this server is alive; the first time, that it is there."""
    if at.settings.etcd is None:
        return
    now = clock.rfc3339_micro(at.clock.now())
    record = at.store.latest(_STORAGE, _key(at))
    lease: Object = orjson.loads(record.value) if record is not None else _lease(at, now)
    lease["spec"]["renewTime"] = now
    try:
        if record is None:
            await at.store.create(_STORAGE, lease)
        else:
            await at.store.update(_STORAGE, lease, expected=record.revision)
    except (protocol.Exists, protocol.Conflict, protocol.Missing):
        return  # the next time


async def leave(at: cluster.Cluster) -> None:
    """Say that this server goes, so that nobody is led to it any more."""
    record = at.store.latest(_STORAGE, _key(at)) if at.settings.etcd is not None else None
    if record is None:
        return
    try:
        await at.store.delete(_STORAGE, orjson.loads(record.value), expected=record.revision)
    except protocol.StoreError:
        return  # it runs out by itself


def host(at: cluster.Cluster) -> str:
    """Return the advertised address as URLs have it."""
    address = at.settings.advertise
    return f"[{address}]" if address.version == 6 else str(address)


def reachable(at: cluster.Cluster) -> list[str]:
    """Return the addresses of the living servers that pods can reach, of our own IP family, sorted."""
    version = at.settings.advertise.version
    known = {ipaddress.ip_address(address) for address, _ in _living(at)}
    return [str(each) for each in sorted(a for a in known if a.version == version and not a.is_loopback)]


def port(at: cluster.Cluster) -> int:
    """Return the port of all servers: the lowest, should they differ."""
    return min(number for _, number in _living(at))


def _living(at: cluster.Cluster) -> list[tuple[str, int]]:
    found = {(str(at.settings.advertise), at.settings.advertised_port)}
    if at.settings.etcd is not None:
        since = clock.rfc3339_micro(at.clock.now() - timedelta(seconds=_SECONDS))
        for record in at.store.cache(_STORAGE).range(namespace=_NAMESPACE):
            if _is_server(record):
                spec = orjson.loads(record.value)["spec"]
                if spec["renewTime"] >= since:
                    address, _, number = spec["holderIdentity"].rpartition("_")
                    found.add((address, int(number)))
    return sorted(found)


def _is_server(record: history.Record) -> bool:
    return record.index.labels.get(_LABEL[0]) == _LABEL[1]


def _key(at: cluster.Cluster) -> tuple[str, str]:
    return _NAMESPACE, "apiserver-" + hashlib.sha256(_identity(at).encode()).hexdigest()[:26]


def _identity(at: cluster.Cluster) -> str:
    return f"{at.settings.advertise}_{at.settings.advertised_port}"


def _lease(at: cluster.Cluster, now: str) -> Object:
    namespace, name = _key(at)
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": cluster.new_uid(),
        "creationTimestamp": at.now(),
        "labels": dict([_LABEL]),
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": _identity(at),
            "leaseDurationSeconds": _SECONDS,
            "acquireTime": now,
            "renewTime": now,
        },
    }
