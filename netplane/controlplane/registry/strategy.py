"""What happens to an object on its way into the store: read, prepared, filled in, judged. Storing it is `api`'s.

The order of each act is the real API server's. All functions change the object they are given, and never the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from netplane.controlplane.registry import schema
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods import remembered
from netplane.controlplane.registry.rules import metadata as metadata_rules
from netplane.controlplane.registry.schema import decode
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.shape import Shape
from netplane.kube.types import Object

FieldValidation = Literal["Strict", "Warn", "Ignore"]

_SERVER_OWNED = frozenset({
    "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink",
    "resourceVersion",
})  # fmt: skip
_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
_ABSENT_WHEN_EMPTY = ("labels", "annotations", "finalizers", "ownerReferences")
_MAX_PREFIX = 58


@dataclass(frozen=True, slots=True)
class Read:
    """The outcome of reading a request body: `error` is the message of a BadRequest, "" when it can be used."""

    error: str = ""
    warnings: tuple[str, ...] = ()


_READ = Read()


def begun(rt: ResourceType, body: bytes) -> Object | None:
    """Return the object in a body of JSON as `read` makes it, with a spec that must not be changed.

    None when the body must be decoded and read. Of pods there are the most, alike by the hundred.
    """
    return decode.begun(schema.shape_of(rt), body) if rt.kind == "Pod" and not rt.group else None


def read(rt: ResourceType, obj: Object, *, validation: FieldValidation = "Strict") -> Read:
    """Read a request body as an object of the type: drop nulls, unknown fields and what of metadata is empty.

    Values are made canonical.
    """
    reading = rt.read(obj) if rt.read else decode.read(schema.shape_of(rt), obj)
    if reading.errors:
        return Read(cannot_be(rt) + reading.errors[0])
    metadata = obj.get("metadata") or {}
    for name in _ABSENT_WHEN_EMPTY:
        if name in metadata and not metadata[name]:
            del metadata[name]
    if reading.unknown and validation == "Strict":
        return Read(f"{cannot_be(rt)}strict decoding error: {', '.join(reading.unknown)}")
    return Read(warnings=tuple(reading.unknown)) if reading.unknown and validation == "Warn" else _READ


def cannot_be(rt: ResourceType) -> str:
    """Return how the message begins with which a body is refused."""
    return f'{rt.kind} in version "{rt.version}" cannot be handled as a {rt.kind}: '


def generated_name(prefix: str, suffix: str) -> str:
    """Return the name of an object created with `generateName`; the suffix is the caller's random text."""
    return prefix[:_MAX_PREFIX] + suffix


def create(rt: ResourceType, obj: Object, *, namespace: str, now: str, uid: str) -> list[Fault]:
    """Make a read object ready to be stored for the first time, and return every reason why it may not be.

    `now` is RFC 3339 in whole seconds. A generated name must be in place already.
    """
    metadata = obj.setdefault("metadata", {})
    for name in _SERVER_OWNED & metadata.keys():
        del metadata[name]
    obj["apiVersion"], obj["kind"] = rt.api_version, rt.kind
    if rt.namespaced:
        metadata["namespace"] = namespace
    metadata["uid"] = uid
    metadata["creationTimestamp"] = now
    if rt.has_generation:
        metadata["generation"] = 1
    if rt.kind == "Pod" and not rt.group and remembered.complete(obj):
        return _metadata_faults(rt, metadata)
    if rt.has_status and rt.crd is not None:
        obj.pop("status", None)
    elif rt.has_status and not rt.creates_with_status:
        obj["status"] = _blank_status(rt)
    rt.default(obj)
    rt.prepare_create(obj)
    return _metadata_faults(rt, metadata) + (rt.validate(obj) or rt.validate_create(obj))


@cache
def _required_counts(rt_shape: Shape) -> tuple[str, ...]:
    status = rt_shape.fields.get("status")
    if status is None:
        return ()
    return tuple(sorted(name for name in status.required if status.child(name).kind == "integer"))


def _blank_status(rt: ResourceType) -> Object:
    """Return the status of a new object: counts that the type requires are 0, as the real API writes them."""
    return dict.fromkeys(_required_counts(schema.shape_of(rt)), 0)


def update(rt: ResourceType, new: Object, old: Object) -> list[Fault]:
    """Make a read object ready to replace the old one: status and the server's own metadata stay as they were.

    The generation counts up when anything but metadata and status differs. `new` keeps its resourceVersion: comparing
    it is the caller's.
    """
    _carry_over(rt, new, old)
    if rt.has_status:
        _copy(new, old, "status")
    rt.default(new)
    rt.prepare_update(new, old)
    if rt.has_generation and _differs(rt, new, old):
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
    return _update_faults(rt, new, old) + rt.validate(new) + rt.validate_update(new, old)


def update_status(rt: ResourceType, new: Object, old: Object) -> list[Fault]:
    """Make a read object ready to replace the old one through its status subresource: only `status` may differ.

    Nodes and pods may change labels and annotations this way too, as kubelets do.
    """
    _carry_over(rt, new, old)
    for name in {*new, *old} - {"apiVersion", "kind", "metadata", "status"}:
        _copy(new, old, name)
    owners = new["metadata"]
    for name in ("ownerReferences", "finalizers", *(() if rt.status_keeps_metadata else ("labels", "annotations"))):
        _copy(owners, old["metadata"], name)
    if rt.crd is not None:
        rt.default(new)
    return _update_faults(rt, new, old) + rt.validate_status(new, old)


def _carry_over(rt: ResourceType, new: Object, old: Object) -> None:
    metadata, before = new.setdefault("metadata", {}), old["metadata"]
    new["apiVersion"], new["kind"] = rt.api_version, rt.kind
    metadata.setdefault("name", before["name"])
    if rt.namespaced:
        metadata.setdefault("namespace", before["namespace"])
    for name in _KEPT:
        if name != "uid" or not metadata.get("uid"):
            _copy(metadata, before, name)


def _copy(target: Object, source: Object, name: str) -> None:
    if name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)


def _differs(rt: ResourceType, new: Object, old: Object) -> bool:
    names = {*new, *old} - {"metadata", "apiVersion", "kind"} - ({"status"} if rt.has_status else set())
    return any(new.get(name) != old.get(name) for name in names)


def _metadata_faults(rt: ResourceType, metadata: Object) -> list[Fault]:
    return metadata_rules.validate(metadata, namespaced=rt.namespaced, name_faults=rt.name_faults)


def _update_faults(rt: ResourceType, new: Object, old: Object) -> list[Fault]:
    metadata, before = new["metadata"], old["metadata"]
    changed = metadata_rules.validate_update(metadata, before, allows_unconditional=rt.allows_unconditional_update)
    return changed + _metadata_faults(rt, metadata)
