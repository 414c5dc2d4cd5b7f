"""Write the Node and Lease objects as the kubelet does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from netplane import __version__
from netplane.agent.runtime.protocol import RuntimeStatus
from netplane.kube.types import Object
from netplane.lib.clock import rfc3339, rfc3339_micro

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
KUBELET_VERSION = f"v1.33.0+netplane.{__version__.replace('+', '.')}"
"""The Kubernetes version that clients reckon with, and ours behind the plus (semver.org, item 10)."""
LEAST_MEMORY = 100 << 20
LEAST_DISK_SHARE = 0.05
LEAST_PIDS_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the machine runs."""

    machine_id: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str
    cpus: int
    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is left right now: bytes of memory and disk, shares of the disk and of the process numbers."""

    memory_free: int
    disk_share: float
    pids_share: float


@dataclass(frozen=True, slots=True)
class Identity:
    """What this node is called and where it answers."""

    name: str
    ips: tuple[str, ...]
    port: int
    max_pods: int = 110
    labels: Mapping[str, str] = field(default_factory=dict)
    runtime: str = "netplane://0.1.0"


def labels(identity: Identity, machine: Machine) -> dict[str, str]:
    """Return the labels that the agent keeps on its node."""
    return {
        "kubernetes.io/arch": machine.architecture,
        "kubernetes.io/hostname": identity.name,
        "kubernetes.io/os": "linux",
        **identity.labels,
    }


def node(identity: Identity, machine: Machine) -> Object:
    """Return the node as it is created; its status is written apart."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": identity.name, "labels": labels(identity, machine)},
        "spec": {},
    }


def capacity(identity: Identity, machine: Machine) -> dict[str, str]:
    """Return the node's capacity, all of which may be allocated."""
    return {
        "cpu": str(machine.cpus),
        "ephemeral-storage": f"{machine.disk >> 10}Ki",
        "memory": f"{machine.memory >> 10}Ki",
        "pods": str(identity.max_pods),
    }


def status(
    identity: Identity,
    machine: Machine,
    pressure: Pressure,
    runtime: RuntimeStatus,
    *,
    before: Sequence[Mapping[str, Any]],
    now: datetime,
    images: Sequence[Object] = (),
) -> Object:
    """Return the node's status; `before` holds the conditions as last written, whose transition times are kept."""
    return {
        "capacity": capacity(identity, machine),
        "allocatable": capacity(identity, machine),
        "conditions": _conditions(pressure, runtime, before, now),
        "addresses": [
            *({"type": "InternalIP", "address": ip} for ip in identity.ips),
            {"type": "Hostname", "address": identity.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": identity.port}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.machine_id,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": identity.runtime,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
        "images": list(images),
    }


def lease(identity: Identity, now: datetime, node_uid: str) -> Object:
    """Return the node's Lease, whose renewal says that the agent lives."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": identity.name, "uid": node_uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": identity.name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
        "spec": {
            "holderIdentity": identity.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": rfc3339_micro(now),
        },
    }


def differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two statuses differ in more than their heartbeats."""
    return _without_heartbeats(one) != _without_heartbeats(other)


def contradicts(node: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether a Node's conditions say otherwise than the status that its agent tells; a Node without any does not."""
    held = {c["type"]: c["status"] for c in (node.get("status") or {}).get("conditions") or ()}
    return bool(held) and any(held.get(c["type"]) != c["status"] for c in told["conditions"])


def _without_heartbeats(document: Mapping[str, Any]) -> dict[str, Any]:
    conditions = [{k: v for k, v in c.items() if k != "lastHeartbeatTime"} for c in document.get("conditions") or ()]
    return {**document, "conditions": conditions}


def _conditions(
    pressure: Pressure, runtime: RuntimeStatus, before: Sequence[Mapping[str, Any]], now: datetime
) -> list[Object]:
    memory, disk = pressure.memory_free < LEAST_MEMORY, pressure.disk_share < LEAST_DISK_SHARE
    pids = pressure.pids_share < LEAST_PIDS_SHARE
    rows = [
        ("MemoryPressure", memory, *_pressure("Memory", "memory available", memory)),
        ("DiskPressure", disk, *_disk(disk)),
        ("PIDPressure", pids, *_pressure("PID", "PID available", pids)),
        ("Ready", *_ready(runtime)),
    ]
    return [_condition(kind, is_true, reason, text, before, now) for kind, is_true, reason, text in rows]


def _pressure(word: str, what: str, is_short: bool) -> tuple[str, str]:
    if is_short:
        return f"KubeletHasInsufficient{word}", f"kubelet has insufficient {what}"
    return f"KubeletHasSufficient{word}", f"kubelet has sufficient {what}"


def _disk(is_short: bool) -> tuple[str, str]:
    if is_short:
        return "KubeletHasDiskPressure", "kubelet has disk pressure"
    return "KubeletHasNoDiskPressure", "kubelet has no disk pressure"


def _ready(runtime: RuntimeStatus) -> tuple[bool, str, str]:
    faults = []
    for name, part in (("RuntimeReady", runtime.runtime), ("NetworkReady", runtime.network)):
        if not part.ok:
            word = "network" if name == "NetworkReady" else "runtime"
            fault = f"{name}=false reason:{part.reason} message:{part.message}"
            faults.append(f"container runtime {word} not ready: {fault}" if word == "network" else fault)
    if faults:
        return False, "KubeletNotReady", ", ".join(faults)
    return True, "KubeletReady", "kubelet is posting ready status"


def _condition(
    kind: str, is_true: bool, reason: str, message: str, before: Sequence[Mapping[str, Any]], now: datetime
) -> Object:
    text, moment = str(is_true), rfc3339(now)
    old = next((c for c in before if c.get("type") == kind), {})
    return {
        "type": kind,
        "status": text,
        "lastHeartbeatTime": moment,
        "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == text else moment,
        "reason": reason,
        "message": message,
    }
