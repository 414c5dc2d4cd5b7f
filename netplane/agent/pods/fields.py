"""Answer the downward API: fieldRef and resourceFieldRef, for environment and volumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netplane.agent.pods.spec import Container, Pod
from netplane.kube import meta, quantity

_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


class FieldError(ValueError):
    """A field that does not exist."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod may ask about besides itself. `allocatable` is the node's, for limits that are not set."""

    node_name: str
    host_ips: tuple[str, ...]
    pod_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, str] | None = None


def field(pod: Pod, path: str, around: Surroundings) -> str:
    """Return a fieldRef's value. Raises FieldError."""
    simple = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": around.node_name,
        "spec.serviceAccountName": str(pod.spec.get("serviceAccountName") or "default"),
        "spec.restartPolicy": pod.restart_policy,
        "status.hostIP": around.host_ips[0] if around.host_ips else "",
        "status.hostIPs": ",".join(around.host_ips),
        "status.podIP": around.pod_ips[0] if around.pod_ips else "",
        "status.podIPs": ",".join(around.pod_ips),
    }
    if path in simple:
        return simple[path]
    if path in ("metadata.labels", "metadata.annotations"):
        entries = meta.labels(pod.obj) if path.endswith("labels") else meta.annotations(pod.obj)
        return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(entries.items()))
    if match := _SUBSCRIPT.match(path):
        entries = meta.labels(pod.obj) if match[1] == "labels" else meta.annotations(pod.obj)
        return entries.get(match[2], "")
    raise FieldError(f"unsupported fieldPath: {path}")


def resource(pod: Pod, container: Container | None, ref: Mapping[str, Any], around: Surroundings) -> str:
    """Return a resourceFieldRef's value, divided and rounded up. Raises FieldError."""
    if name := ref.get("containerName"):
        container = pod.container(name)
    if container is None:
        raise FieldError(f"container {ref.get('containerName')!r} not found")
    kind, _, name = str(ref.get("resource", "")).partition(".")
    limits, requests = dict(container.limits), dict(container.requests)
    if kind == "limits":
        text = limits.get(name) or (around.allocatable or {}).get(name, "0")
    elif kind == "requests":
        text = requests.get(name) or limits.get(name, "0")
    else:
        raise FieldError(f"unsupported resource: {ref.get('resource')}")
    divisor = quantity.parse(ref.get("divisor") or "1")
    return str(quantity.ceil(quantity.parse(text), divisor if divisor else quantity.parse("1")))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
