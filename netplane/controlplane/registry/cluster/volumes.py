"""The types of storage.k8s.io beside StorageClass: kept as data for what drives volumes; what they must fulfil."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cluster import columns
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.types import Column
from netplane.kube.types import Object

CLAIM_FINALIZER, VOLUME_FINALIZER = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"
"""What keeps a claim or a volume that is deleted, until nothing uses it."""
_FINALIZERS = {"PersistentVolumeClaim": CLAIM_FINALIZER, "PersistentVolume": VOLUME_FINALIZER}
_UNSET = "<unset>"


def protect(kind: str, obj: Object) -> None:
    """Give a new claim or volume of the core group the finalizer that keeps it while it is used."""
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if _FINALIZERS[kind] not in finalizers:
        finalizers.append(_FINALIZERS[kind])


def _spec(obj: Object) -> Object:
    found: Object = obj.get("spec") or {}
    return found


DRIVER_COLUMNS = (
    columns.NAME,
    Column("AttachRequired", "boolean"),
    Column("PodInfoOnMount", "boolean"),
    Column("StorageCapacity", "boolean"),
    Column("TokenRequests"),
    Column("RequiresRepublish", "boolean"),
    Column("Modes"),
    columns.AGE,
)
driver_cells = columns.with_age(
    lambda obj: bool(_spec(obj).get("attachRequired")),
    lambda obj: bool(_spec(obj).get("podInfoOnMount")),
    lambda obj: bool(_spec(obj).get("storageCapacity")),
    lambda obj: ",".join(each.get("audience", "") for each in _spec(obj).get("tokenRequests") or ()) or _UNSET,
    lambda obj: bool(_spec(obj).get("requiresRepublish")),
    lambda obj: ",".join(_spec(obj).get("volumeLifecycleModes") or ()) or "<none>",
)
NODE_COLUMNS = (columns.NAME, Column("Drivers", "integer"), columns.AGE)
node_cells = columns.with_age(lambda obj: len(_spec(obj).get("drivers") or ()))
CAPACITY_COLUMNS = columns.named("StorageClassName", "Capacity")
capacity_cells = columns.with_age(
    lambda obj: obj.get("storageClassName", ""), lambda obj: str(obj.get("capacity") or _UNSET)
)
ATTACHMENT_COLUMNS = (
    columns.NAME, Column("Attacher"), Column("PV"), Column("Node"), Column("Attached", "boolean"), columns.AGE,
)  # fmt: skip


def _volume(obj: Object) -> str:
    source = _spec(obj).get("source") or {}
    return str(source.get("persistentVolumeName") or "")


attachment_cells = columns.with_age(
    lambda obj: _spec(obj).get("attacher", ""),
    _volume,
    lambda obj: _spec(obj).get("nodeName", ""),
    lambda obj: bool((obj.get("status") or {}).get("attached")),
)


def driver_defaults(obj: Object) -> None:
    """Fill in a CSIDriver."""
    spec = obj.setdefault("spec", {})
    for name, value in (
        ("attachRequired", True), ("podInfoOnMount", False), ("storageCapacity", False), ("requiresRepublish", False),
        ("fsGroupPolicy", "ReadWriteOnceWithFSType"), ("seLinuxMount", False),
    ):  # fmt: skip
        spec.setdefault(name, value)
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]


def driver(obj: Object) -> list[Fault]:
    """Return every fault of a CSIDriver."""
    spec = obj["spec"]
    modes, policies = ("Ephemeral", "Persistent"), ("File", "None", "ReadWriteOnceWithFSType")
    found = [
        faults.not_supported("spec.volumeLifecycleModes", each, modes)
        for each in spec["volumeLifecycleModes"]
        if each not in modes
    ]
    if spec["fsGroupPolicy"] not in policies:
        found.append(faults.not_supported("spec.fsGroupPolicy", spec["fsGroupPolicy"], policies))
    return found


def driver_update(new: Object, old: Object) -> list[Fault]:
    """What a driver can does not change."""
    return _fixed(new, old, "attachRequired", "volumeLifecycleModes")


def node(obj: Object) -> list[Fault]:
    """Return every fault of a CSINode."""
    found: list[Fault] = []
    seen: set[str] = set()
    for index, each in enumerate((obj.get("spec") or {}).get("drivers") or ()):
        at = f"spec.drivers[{index}]"
        found += [faults.required(f"{at}.{name}") for name in ("name", "nodeID") if not each.get(name)]
        if each.get("name") in seen:
            found.append(faults.duplicate(f"{at}.name", each["name"]))
        seen.add(each.get("name", ""))
    return found


def capacity(obj: Object) -> list[Fault]:
    """Return every fault of a CSIStorageCapacity."""
    return [] if obj.get("storageClassName") else [faults.required("storageClassName")]


def capacity_update(new: Object, old: Object) -> list[Fault]:
    """Where the capacity is does not change."""
    return [
        faults.invalid(name, new.get(name), "field is immutable")
        for name in ("nodeTopology", "storageClassName")
        if new.get(name) != old.get(name)
    ]


def attachment(obj: Object) -> list[Fault]:
    """Return every fault of a VolumeAttachment."""
    spec: dict[str, Any] = obj.get("spec") or {}
    source = spec.get("source") or {}
    found = [faults.required(f"spec.{name}") for name in ("attacher", "nodeName") if not spec.get(name)]
    if ("inlineVolumeSpec" in source) == bool(source.get("persistentVolumeName")):
        detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        found.append(faults.required("spec.source", detail))
    return found


def attachment_update(new: Object, old: Object) -> list[Fault]:
    """What is attached where does not change."""
    spec = new.get("spec")
    return [] if spec == old.get("spec") else [faults.invalid("spec", spec, "field is immutable")]


def _fixed(new: Object, old: Object, *names: str) -> list[Fault]:
    return [
        faults.invalid(f"spec.{name}", new["spec"].get(name), "field is immutable")
        for name in names
        if new["spec"].get(name) != old["spec"].get(name)
    ]
