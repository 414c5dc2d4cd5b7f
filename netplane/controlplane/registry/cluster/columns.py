"""What tables print of nodes, namespaces, configuration, roles, events and leases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.rules.labels import map_text, selector_text
from netplane.controlplane.registry.types import Cells, Column
from netplane.controlplane.registry.workloads.columns import images
from netplane.kube.types import Object

NAME = Column("Name", format="name")
AGE = Column("Age")
_ROLE_LABEL = "node-role.kubernetes.io/"


def wide(*names: str) -> tuple[Column, ...]:
    """Columns of `-o wide`."""
    return tuple(Column(each, priority=1) for each in names)


def named(*names: str) -> tuple[Column, ...]:
    """NAME, these, AGE."""
    return (NAME, *(Column(each) for each in names), AGE)


def with_age(*readers: Callable[[Object], Any]) -> Cells:
    """Return the cells of `named` columns: the name, one cell for each reader, the age."""

    def cells(obj: Object, now: datetime) -> list[Any]:
        metadata = obj["metadata"]
        return [metadata["name"], *(read(obj) for read in readers), times.age(metadata.get("creationTimestamp"), now)]

    return cells


NODE = (
    *named("Status", "Roles"),
    Column("Version"),
    *wide("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
)
EVENT = (
    Column("Last Seen"),
    Column("Type"),
    Column("Reason"),
    Column("Object"),
    Column("Subobject", priority=1),
    Column("Source", priority=1),
    Column("Message"),
    Column("First Seen", priority=1),
    Column("Count", priority=1),
    Column("Name", format="name", priority=1),
)
BINDING = (NAME, Column("Role"), AGE, *wide("Users", "Groups", "ServiceAccounts"))
POD_TEMPLATE = (NAME, Column("Containers"), Column("Images"), Column("Pod Labels"))
PRIORITY_CLASS = (
    NAME,
    Column("Value", "integer"),
    Column("Global-Default", "boolean"),
    AGE,
    Column("PreemptionPolicy"),
)
VOLUME = (
    *named(
        "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass",
        "Reason",
    ),
    *wide("VolumeMode"),
)  # fmt: skip
CLAIM = (
    *named("Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass"),
    *wide("VolumeMode"),
)


def node(obj: Object, now: datetime) -> list[Any]:
    """One row of nodes."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    ready = next(
        (each.get("status", "") for each in status.get("conditions") or () if each.get("type") == "Ready"), None
    )
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    if spec.get("unschedulable"):
        words.append("SchedulingDisabled")
    info = status.get("nodeInfo") or {}
    return [
        metadata["name"],
        ",".join(words),
        ",".join(_roles(metadata.get("labels") or {})) or "<none>",
        times.age(metadata.get("creationTimestamp"), now),
        info.get("kubeletVersion", ""),
        _address(status, "InternalIP"),
        _address(status, "ExternalIP"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _roles(labels: dict[str, str]) -> list[str]:
    named_by_key = {key.removeprefix(_ROLE_LABEL) for key in labels if key.startswith(_ROLE_LABEL)}
    return sorted((named_by_key | {labels.get("kubernetes.io/role", "")}) - {""})


def _address(status: Object, kind: str) -> str:
    return next(
        (each.get("address", "") for each in status.get("addresses") or () if each.get("type") == kind), "<none>"
    )


def event(obj: Object, now: datetime) -> list[Any]:
    """One row of core events."""
    involved, source, series = obj.get("involvedObject") or {}, obj.get("source") or {}, obj.get("series") or {}
    happened = obj.get("eventTime")
    first, last = obj.get("firstTimestamp") or happened, obj.get("lastTimestamp")
    count = obj.get("count", 0)
    if series:
        last, count = series.get("lastObservedTime"), series.get("count", 0)
    count = count or 1
    component = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or ("" if source.get("component") else obj.get("reportingInstance"))
    return [
        times.age(last or first, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"
        if involved.get("name")
        else involved.get("kind", ""),
        involved.get("fieldPath", ""),
        f"{component}, {host}" if host else component,
        (obj.get("message") or obj.get("note") or "").strip(),
        times.age(first, now),
        count,
        obj["metadata"].get("name", ""),
    ]


def binding(obj: Object, now: datetime) -> list[Any]:
    """One row of role bindings."""
    metadata, role = obj["metadata"], obj.get("roleRef") or {}
    subjects: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for each in obj.get("subjects") or ():
        is_account = each.get("kind") == "ServiceAccount"
        text = f"{each.get('namespace', '')}/{each.get('name', '')}" if is_account else each.get("name", "")
        subjects.setdefault(each.get("kind", ""), []).append(text)
    return [
        metadata["name"],
        f"{role.get('kind', '')}/{role.get('name', '')}",
        times.age(metadata.get("creationTimestamp"), now),
        *(", ".join(subjects[kind]) for kind in ("User", "Group", "ServiceAccount")),
    ]


def pod_template(obj: Object, now: datetime) -> list[Any]:
    """One row of pod templates."""
    template = obj.get("template") or {}
    return [obj["metadata"]["name"], *images(template), map_text((template.get("metadata") or {}).get("labels"))]


def priority_class(obj: Object, now: datetime) -> list[Any]:
    """One row of priority classes."""
    metadata = obj["metadata"]
    return [
        metadata["name"],
        obj.get("value", 0),
        bool(obj.get("globalDefault")),
        times.age(metadata.get("creationTimestamp"), now),
        obj.get("preemptionPolicy", "PreemptLowerPriority"),
    ]


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: list[str] | None) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def volume(obj: Object, now: datetime) -> list[Any]:
    """One row of persistent volumes."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    claim = spec.get("claimRef") or {}
    return [
        metadata["name"],
        (spec.get("capacity") or {}).get("storage", "<unset>"),
        _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        "Terminating" if metadata.get("deletionTimestamp") else status.get("phase", ""),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        times.age(metadata.get("creationTimestamp"), now),
        spec.get("volumeMode") or "<unset>",
    ]


def claim(obj: Object, now: datetime) -> list[Any]:
    """One row of persistent volume claims."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    is_bound = bool(spec.get("volumeName"))
    return [
        metadata["name"],
        "Terminating" if metadata.get("deletionTimestamp") else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if is_bound else "",
        _modes(status.get("accessModes")) if is_bound else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        times.age(metadata.get("creationTimestamp"), now),
        spec.get("volumeMode") or "<unset>",
    ]


def quota(obj: Object, now: datetime) -> list[Any]:
    """One row of resource quotas: used and hard, requests apart from limits."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    texts: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(hard):
        texts[name.startswith("limits.")].append(f"{name}: {used.get(name, '0')}/{hard[name]}")
    return [
        metadata["name"],
        ", ".join(texts[False]),
        ", ".join(texts[True]),
        times.age(metadata.get("creationTimestamp"), now),
    ]


def autoscaler(obj: Object, now: datetime) -> list[Any]:
    """One row of horizontal pod autoscalers."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    return [
        metadata["name"],
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _metrics(spec.get("metrics") or [], status.get("currentMetrics") or []),
        str(spec.get("minReplicas", "<unset>")),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        times.age(metadata.get("creationTimestamp"), now),
    ]


def _metrics(wanted: list[Object], current: list[Object]) -> str:
    if not wanted:
        return "<none>"
    shown = [_metric(each, current[index] if index < len(current) else {}) for index, each in enumerate(wanted[:2])]
    more = f" + {len(wanted) - 2} more..." if len(wanted) > 2 else ""
    return ", ".join(shown) + more


def _metric(wanted: Object, current: Object) -> str:
    source = (
        wanted.get("resource") or wanted.get("containerResource") or wanted.get("pods") or wanted.get("object") or {}
    )
    target = source.get("target") or {}
    now = next((value.get("current") or {} for value in current.values() if isinstance(value, dict)), {})
    if "averageUtilization" in target:
        value = now.get("averageUtilization")
        text = f"{'<unknown>' if value is None else f'{value}%'}/{target.get('averageUtilization', '')}%"
    else:
        value = now.get("averageValue") or now.get("value")
        text = f"{value or '<unknown>'}/{target.get('averageValue') or target.get('value')}"
    return f"{source.get('name', '')}: {text}" if source.get("name") else text


def disruption_budget(obj: Object, now: datetime) -> list[Any]:
    """One row of pod disruption budgets."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    return [
        metadata["name"],
        str(spec.get("minAvailable", "N/A")),
        str(spec.get("maxUnavailable", "N/A")),
        status.get("disruptionsAllowed", 0),
        times.age(metadata.get("creationTimestamp"), now),
    ]


def pod_selector(obj: Object) -> str:
    """A network policy's selector as text."""
    return selector_text((obj.get("spec") or {}).get("podSelector"))


def parameters(obj: Object) -> str:
    """An ingress class's parameters as text."""
    found = (obj.get("spec") or {}).get("parameters")
    if not found:
        return "<none>"
    group = f".{found.get('apiGroup', '')}" if found.get("apiGroup") else ""
    return f"{found.get('kind', '')}{group}/{found.get('name', '')}"
