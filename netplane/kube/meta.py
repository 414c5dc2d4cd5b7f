"""Read and write what every Kubernetes object has: owners, labels, conditions, deletion. Sending it is `client`'s."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from netplane.kube.types import Object
from netplane.lib import timestamp


def labels(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels, empty when there are none."""
    found: Mapping[str, str] = obj.get("metadata", {}).get("labels") or {}
    return found


def annotations(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the annotations, empty when there are none."""
    found: Mapping[str, str] = obj.get("metadata", {}).get("annotations") or {}
    return found


def uid(obj: Mapping[str, Any]) -> str:
    """Return the uid, "" before the server has given one."""
    return str(obj.get("metadata", {}).get("uid") or "")


def resource_version(obj: Mapping[str, Any]) -> str:
    """Return the resourceVersion, "" before the server has given one."""
    return str(obj.get("metadata", {}).get("resourceVersion") or "")


def is_deleting(obj: Mapping[str, Any]) -> bool:
    """Whether deletion was asked for and has not finished."""
    return bool(obj.get("metadata", {}).get("deletionTimestamp"))


def owner_reference(owner: Mapping[str, Any], *, is_controller: bool = True) -> Object:
    """Return the metadata.ownerReferences entry that makes an object belong to `owner`."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": is_controller,
        "blockOwnerDeletion": True,
    }


def owners(obj: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the owner references."""
    found: Sequence[Mapping[str, Any]] = obj.get("metadata", {}).get("ownerReferences") or ()
    return found


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the owner reference of the one controller in charge, if any."""
    return next((owner for owner in owners(obj) if owner.get("controller")), None)


def is_controlled_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether `owner` is the controller in charge, by uid."""
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == uid(owner)


def object_reference(obj: Mapping[str, Any]) -> Object:
    """Return the core/v1 ObjectReference that names this object, as Events and targetRefs hold it."""
    metadata = obj["metadata"]
    fields = {
        "apiVersion": obj.get("apiVersion"),
        "kind": obj.get("kind"),
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
        "uid": metadata.get("uid"),
        "resourceVersion": metadata.get("resourceVersion"),
    }
    return {key: value for key, value in fields.items() if value}


def condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    """Return the status condition of this type, if there is one."""
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((entry for entry in found if entry.get("type") == type_), None)


def is_condition_true(obj: Mapping[str, Any], type_: str) -> bool:
    """Whether the status condition of this type is there and "True"."""
    entry = condition(obj, type_)
    return entry is not None and entry.get("status") == "True"


def with_condition(
    conditions: Sequence[Mapping[str, Any]],
    type_: str,
    status: bool | str,
    *,
    now: datetime,
    reason: str = "",
    message: str = "",
    **extra: Any,
) -> list[Object]:
    """Return the conditions with this one set, in place of its like or at the end.

    `lastTransitionTime` moves only when the status does. `status` is a bool or "Unknown".
    """
    text = str(status)
    before = next((entry for entry in conditions if entry.get("type") == type_), None)
    kept = before is not None and before.get("status") == text and bool(before.get("lastTransitionTime"))
    moment = before["lastTransitionTime"] if before is not None and kept else timestamp.rfc3339(now)
    after: Object = {"type": type_, "status": text, "lastTransitionTime": moment, **extra}
    after |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    if before is None:
        return [*map(dict, conditions), after]
    return [after if entry is before else dict(entry) for entry in conditions]
