"""Kubernetes objects as JSON, for tests that feed an API."""

from __future__ import annotations

from typing import Any

from netplane.kube.types import Object


def service(name: str = "web", ip: str = "10.96.0.1", *, protocol: str = "TCP", **spec: Any) -> Object:
    """A ClusterIP Service with port 80."""
    ports = [{"name": "", "port": 80, "protocol": protocol, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports, **spec},
    }


def endpoint_slice(
    *ips: str, of: str = "web", protocol: str = "TCP", node: str = "node-2", trigger: str = ""
) -> Object:
    """A slice with all endpoints ready on one node."""
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": trigger} if trigger else {}
    labels = {"kubernetes.io/service-name": of}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": f"{of}-1", "labels": labels, "annotations": annotations},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": protocol}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}, "nodeName": node} for ip in ips],
    }


def node(name: str = "node-1", ip: str = "172.30.0.11", **labels: str) -> Object:
    """A node with one address."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }
