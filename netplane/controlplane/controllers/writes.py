"""What a controller may ask of the world, as data. Carrying it out is `execute`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from netplane.kube.types import Key, Object, Resource


@dataclass(frozen=True, slots=True)
class Create:
    """Create `obj`; with `about`, tell that object's Events of the success or the failure."""

    resource: Resource
    obj: Object
    about: Object | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Replace an object. Its `metadata.resourceVersion` guards against a newer one."""

    resource: Resource
    obj: Object
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """Replace the status of an object, guarded by its `metadata.resourceVersion`."""

    resource: Resource
    obj: Object


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge `patch` into an object (RFC 7396, or strategic). Put a resourceVersion or uid into it to guard it."""

    resource: Resource
    key: Key
    patch: Object
    kind: Literal["merge", "strategic"] = "merge"
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """An object named by an owner reference, to be asked for at the API itself before one acts on its absence."""

    resource: Resource
    key: Key
    uid: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object of that uid. Missing already is success; `unless` lists owners that must really be absent."""

    resource: Resource
    key: Key
    uid: str
    propagation: str = ""
    grace_seconds: int | None = None
    about: Object | None = None
    unless: tuple[Owner, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteAll:
    """Delete every object of one type in a namespace."""

    resource: Resource
    namespace: str


@dataclass(frozen=True, slots=True)
class Finalize:
    """Release a namespace from the `kubernetes` finalizer once the API itself lists nothing of `resources` in it."""

    namespace: Object
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class Vacate:
    """Make a patch that lets a ServiceCIDR go, unless the API itself lists a Service with an address it `keeps`."""

    keeps: Callable[[Iterable[str]], bool]
    patch: Patch


@dataclass(frozen=True, slots=True)
class Release:
    """Make a patch that lets an object go, unless the API itself lists one in the namespace that `uses` it."""

    among: Resource
    namespace: str
    uses: Callable[[Object], bool]
    patch: Patch


@dataclass(frozen=True, slots=True)
class Event:
    """Post an Event about an object."""

    about: Object
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Requeue:
    """Ask the same key again after so many seconds, whether or not anything changed."""

    seconds: float


Write = Create | Update | UpdateStatus | Patch | Delete | DeleteAll | Finalize | Vacate | Release | Event | Requeue


def with_status(obj: Object, status: Object) -> Object:
    """Return the object with another status; the given one stays as it is."""
    return {**obj, "status": status}


def with_metadata(obj: Object, **fields: object) -> Object:
    """Return the object with these metadata fields replaced; the given one stays as it is."""
    return {**obj, "metadata": {**obj["metadata"], **fields}}
