"""Pack endpoints into EndpointSlices with the fewest writes, at most a hundred to a slice, the same way every time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netplane.controlplane.controllers import backends, owners, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import ENDPOINTSLICES, SERVICES, Object, key_of

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
LIMIT = 100

Group = tuple[str, backends.Ports]
"""(address type, ports): endpoints of one slice share both."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose slices these are: the Service, the controller that manages them, and what they all carry."""

    service: Object
    manager: str
    labels: Mapping[str, str]
    triggered: str


@dataclass(slots=True, eq=False)
class _Slice:
    """A slice being filled: the object as it is, or None for a new one, and the endpoints it shall have."""

    held: Object | None
    endpoints: list[Object] = field(default_factory=list)
    is_changed: bool = False


def mine(view: View, service: Object, manager: str) -> list[Object]:
    """Return the Service's slices of that manager that are not being deleted, sorted by name."""
    return [
        found
        for found in view.controlled(ENDPOINTSLICES, service["metadata"]["uid"])
        if meta.labels(found).get(MANAGED_BY) == manager and not meta.is_deleting(found)
    ]


def pack(view: View, origin: Origin, wanted: Mapping[Group, list[Object]]) -> list[writes.Write]:
    """Return the writes that make the Service's slices hold exactly the wanted endpoints.

    Endpoints stay in the slice they are in; new ones fill slices that change anyway, then others with room, then new
    slices. A group without endpoints keeps one empty slice as its placeholder.
    """
    held: dict[Group, list[Object]] = {}
    for found in mine(view, origin.service, origin.manager):
        held.setdefault(_group_of(found), []).append(found)
    filled = {group: _fill(held.get(group, []), wanted.get(group, ())) for group in sorted({*wanted, *held})}
    spare = {group: _emptied(slices, is_wanted=group in wanted) for group, slices in filled.items()}
    todo: list[writes.Write] = []
    taken = {key[1] for key in map(key_of, view.all(ENDPOINTSLICES, origin.service["metadata"]["namespace"]))}
    for group in wanted:
        recycled = [found for other, slices in spare.items() if other[0] == group[0] for found in slices]
        for new in filled[group]:
            if new.held is None and recycled:
                new.held = recycled[0].held
                _take(spare, recycled.pop(0))
        todo += _emit(origin, group, filled[group], taken)
    todo += [_delete(unused.held) for slices in spare.values() for unused in slices if unused.held]
    return sorted(todo, key=_deletes_last)


def _emptied(slices: list[_Slice], *, is_wanted: bool) -> list[_Slice]:
    """Take the slices that no endpoint is left in out of the list, but for one placeholder of a wanted group."""
    empty = [found for found in slices if not found.endpoints and (found.held or not is_wanted)]
    if is_wanted and len(empty) == len(slices):
        empty = empty[1:]
    for found in empty:
        slices.remove(found)
    return empty


def _take(spare: dict[Group, list[_Slice]], found: _Slice) -> None:
    for slices in spare.values():
        if found in slices:
            slices.remove(found)


def _deletes_last(write: writes.Write) -> bool:
    """Order the writes so that no endpoint is missing between two of them."""
    return isinstance(write, writes.Delete)


def _fill(held: list[Object], wanted: Iterable[Object]) -> list[_Slice]:
    rest = {_identity(endpoint): endpoint for endpoint in wanted}
    slices = [_keep(found, rest) for found in held]
    for found in sorted(slices, key=lambda found: (not found.is_changed, -len(found.endpoints))):
        room = LIMIT - len(found.endpoints)
        if not rest or room <= 0 or (not found.is_changed and room < len(rest)):
            continue
        for identity in sorted(rest)[:room]:
            found.endpoints.append(rest.pop(identity))
            found.is_changed = True
    while rest:
        new = _Slice(None, is_changed=True)
        new.endpoints += [rest.pop(identity) for identity in sorted(rest)[:LIMIT]]
        slices.append(new)
    return slices or [_Slice(None, is_changed=True)]


def _keep(found: Object, rest: dict[tuple[str, ...], Object]) -> _Slice:
    """Return the slice with its still wanted endpoints as they are now, and take these out of the rest."""
    kept = _Slice(found)
    before = found.get("endpoints") or []
    for endpoint in before:
        now = rest.pop(_identity(endpoint), None)
        if now is not None:
            kept.endpoints.append(now)
            kept.is_changed |= now != endpoint
    kept.is_changed |= len(kept.endpoints) != len(before)
    return kept


def _emit(origin: Origin, group: Group, slices: list[_Slice], taken: set[str]) -> list[writes.Write]:
    todo: list[writes.Write] = []
    for found in slices:
        if found.held is None:
            todo.append(writes.Create(ENDPOINTSLICES, _new(origin, group, found, taken)))
        elif found.is_changed or _differs(origin, found.held):
            todo.append(writes.Update(ENDPOINTSLICES, _body(origin, group, found, found.held["metadata"])))
    return todo


def _differs(origin: Origin, held: Object) -> bool:
    return dict(meta.labels(held)) != _labels(origin)


def _labels(origin: Origin) -> dict[str, str]:
    return {
        **origin.labels,
        backends.SERVICE_NAME: origin.service["metadata"]["name"],
        MANAGED_BY: origin.manager,
    }


def _new(origin: Origin, group: Group, found: _Slice, taken: set[str]) -> Object:
    owner = origin.service["metadata"]
    name = next(name for name in _names(origin, group) if name not in taken)
    taken.add(name)
    metadata = {
        "name": name,
        "namespace": owner["namespace"],
        "ownerReferences": [owners.reference(origin.service, SERVICES)],
    }
    return _body(origin, group, found, metadata)


def _names(origin: Origin, group: Group) -> Iterable[str]:
    """Yield names a slice may have: the same for the same facts, so that a lagging view cannot make two of one."""
    metadata = origin.service["metadata"]
    for number in range(100_000):
        digest = templates.short_hash(f"{metadata['uid']}/{origin.manager}/{group}/{number}")
        yield f"{metadata['name']}-{digest[-5:]}"


def _body(origin: Origin, group: Group, found: _Slice, metadata: Object) -> Object:
    annotations = {**(metadata.get("annotations") or {})}
    if origin.triggered:
        annotations[backends.TRIGGERED] = origin.triggered
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": ENDPOINTSLICES.kind,
        "metadata": {**metadata, "labels": _labels(origin), "annotations": annotations},
        "addressType": group[0],
        "endpoints": sorted(found.endpoints, key=_identity),
        "ports": [_port(port) for port in group[1]],
    }


def _port(port: tuple[str, int | None, str, str]) -> Object:
    name, number, protocol, application = port
    found: Object = {"name": name, "protocol": protocol}
    if number is not None:
        found["port"] = number
    return {**found, "appProtocol": application} if application else found


def _group_of(found: Object) -> Group:
    ports = tuple(
        (port.get("name") or "", port.get("port"), port.get("protocol") or "TCP", port.get("appProtocol") or "")
        for port in found.get("ports") or ()
    )
    return found["addressType"], ports


def _identity(endpoint: Object) -> tuple[str, ...]:
    return (*endpoint["addresses"], (endpoint.get("targetRef") or {}).get("uid") or "")


def _delete(found: Object) -> writes.Delete:
    return writes.Delete(ENDPOINTSLICES, key_of(found), found["metadata"]["uid"])
