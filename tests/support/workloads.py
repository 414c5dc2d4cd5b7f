"""Builders of the objects controllers and the scheduler work on."""

from __future__ import annotations

from typing import Any

from netplane.kube.types import Object

LABELS = {"app": "web"}
LONG_AGO = "2025-12-31T00:00:00Z"


def template(image: str = "echo:1", **spec: Any) -> Object:
    """A pod template with one container."""
    return {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "echo", "image": image}], **spec}}


def deployment(replicas: int = 3, image: str = "echo:1", **spec: Any) -> Object:
    """A Deployment named web."""
    body = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template(image), **spec}
    return {"metadata": {"name": "web"}, "spec": {"progressDeadlineSeconds": 600, **body}}


def replica_set(replicas: int = 3, **spec: Any) -> Object:
    """A ReplicaSet named web."""
    body = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template(), **spec}
    return {"metadata": {"name": "web"}, "spec": body}


def daemon_set(**spec: Any) -> Object:
    """A DaemonSet named web."""
    return {"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": LABELS}, "template": template(), **spec}}


def condition(kind: str, value: str = "True", since: str = LONG_AGO) -> Object:
    """A status condition."""
    return {"type": kind, "status": value, "lastTransitionTime": since}


def pod(
    name: str = "web-1",
    *ips: str,
    node: str = "node-1",
    ready: bool = True,
    phase: str = "Running",
    since: str = LONG_AGO,
    labels: dict[str, str] | None = None,
    deleting: bool = False,
    **spec: Any,
) -> Object:
    """A Pod, by default running and ready on node-1."""
    metadata: Object = {"namespace": "default", "name": name, "uid": f"uid-{name}", "creationTimestamp": LONG_AGO}
    metadata["labels"] = LABELS if labels is None else labels
    if deleting:
        metadata["deletionTimestamp"] = LONG_AGO
    status: Object = {"phase": phase, "conditions": [condition("Ready", str(ready), since)]}
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    containers = [{"name": "echo", "image": "echo:1", "ports": [{"name": "http", "containerPort": 8080}]}]
    body = {"containers": containers, **({"nodeName": node} if node else {}), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body, "status": status}


def node(
    name: str = "node-1", *, ready: str = "True", zone: str = "", labels: dict[str, str] | None = None, **spec: Any
) -> Object:
    """A Node with 4 CPUs and 8 GiB."""
    given = {
        "kubernetes.io/hostname": name,
        **(labels or {}),
        **({"topology.kubernetes.io/zone": zone} if zone else {}),
    }
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": given},
        "spec": spec,
        "status": {"allocatable": amounts, "capacity": amounts, "conditions": [condition("Ready", ready)]},
    }


def service(**spec: Any) -> Object:
    """A Service named web that selects the Pods of `pod`."""
    body = {
        "clusterIP": "10.96.0.9",
        "ipFamilies": ["IPv4"],
        "selector": LABELS,
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        **spec,
    }
    metadata = {"namespace": "default", "name": "web", "uid": "uid-svc", "creationTimestamp": LONG_AGO}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": body}
