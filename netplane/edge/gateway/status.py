"""Write what became of each object into its status: conditions with the specification's reasons, counts, addresses.

Conditions and parents of other controllers are kept as they are; a transition time moves only when the status does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from netplane.edge.gateway import compile as compiling
from netplane.edge.gateway.attach import Attachment
from netplane.edge.gateway.facts import (
    GATEWAYCLASSES,
    GATEWAYS,
    HTTPROUTES,
    Door,
    Fault,
    Gateway,
    GatewayClass,
    HttpRoute,
    Meta,
)
from netplane.edge.gateway.listeners import Judged
from netplane.kube import meta as metas
from netplane.kube.types import Key, Object, Resource
from netplane.model import address

_MOST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """A status to be put, guarded by the resourceVersion of the object it was decided for."""

    resource: Resource
    key: Key
    resource_version: str
    status: Object


class _Conditions:
    """The conditions of one place in a status, as they become."""

    def __init__(self, before: Iterable[Mapping[str, Any]], generation: int, now: datetime) -> None:
        self.now_there: list[Object] = [dict(each) for each in before]
        self._generation = generation
        self._now = now

    def set(self, type_: str, status: bool, reason: str, message: str = "") -> None:
        """Set one. The API wants a message, if empty."""
        self.now_there = metas.with_condition(
            self.now_there,
            type_,
            status,
            now=self._now,
            reason=reason,
            message=message[:_MOST_MESSAGE] or " ",
            observedGeneration=self._generation,
        )
        for each in self.now_there:
            each["message"] = each.get("message", "").strip()

    def judge(self, type_: str, fault: Fault | None) -> None:
        """Set one that is true, with its own name as reason, when nothing is wrong."""
        self.set(type_, fault is None, fault.reason if fault else type_, fault.message if fault else "")

    def drop(self, type_: str) -> None:
        """Take one away."""
        self.now_there = [each for each in self.now_there if each.get("type") != type_]


def gateway_class(of: GatewayClass, now: datetime) -> StatusWrite | None:
    """Return the status of a class of ours, None when it stands so already."""
    conditions = _Conditions(of.meta.status.get("conditions") or (), of.meta.generation, now)
    message = "spec.parametersRef: there are no parameters for this controller"
    conditions.judge("Accepted", Fault("InvalidParameters", message) if of.has_parameters else None)
    return _write(GATEWAYCLASSES, of.meta, {**of.meta.status, "conditions": conditions.now_there})


def http_route(
    of: HttpRoute,
    attachments: Sequence[Attachment],
    compiled: compiling.Compiled,
    *,
    controller: str,
    now: datetime,
) -> StatusWrite | None:
    """Return the status of a route, None when it stands so already."""
    before = of.meta.status.get("parents") or []
    entries: list[Object] = [each for each in before if each.get("controllerName") != controller]
    own = [each for each in before if each.get("controllerName") == controller]
    for attachment in attachments:
        raw = attachment.parent.raw
        there: Object = next((each for each in own if each.get("parentRef") == raw), {})
        conditions = _Conditions(there.get("conditions") or (), of.meta.generation, now)
        _route_conditions(conditions, of, attachment, compiled)
        entries.append({"parentRef": raw, "controllerName": controller, "conditions": conditions.now_there})
    if not entries and not before:
        return None
    return _write(HTTPROUTES, of.meta, {**of.meta.status, "parents": entries})


def _route_conditions(
    conditions: _Conditions, of: HttpRoute, attachment: Attachment, compiled: compiling.Compiled
) -> None:
    faults = [(rule.index, rule.fault) for rule in of.rules if rule.fault]
    is_invalid = len(faults) == len(of.rules) and bool(faults)
    conditions.judge("Accepted", attachment.fault or (faults[0][1] if is_invalid else None))
    conditions.judge("ResolvedRefs", compiled.unresolved)
    if faults and not is_invalid and not attachment.fault:
        dropped = "; ".join(f"Dropped Rule {index}: {fault.message}" for index, fault in faults)
        conditions.set("PartiallyInvalid", True, faults[0][1].reason, dropped)
    else:
        conditions.drop("PartiallyInvalid")


def is_accepted(of: HttpRoute, attachment: Attachment) -> bool:
    """Tell whether a route is accepted by a parent: attached, and with a rule that can be served."""
    return attachment.fault is None and any(rule.fault is None for rule in of.rules)


def gateway(
    of: Gateway, listeners: Sequence[Judged], attached: Mapping[tuple[Key, str], int], door: Door, *, now: datetime
) -> StatusWrite | None:
    """Return the status of a Gateway, None when it stands so already. `attached` counts routes by listener."""
    addresses, refused, unusable = _addresses(of, door)
    conditions = _Conditions(of.meta.status.get("conditions") or (), of.meta.generation, now)
    faulty = [each for each in listeners if not each.is_served]
    is_dead = len(faulty) == len(listeners)
    parameters = "spec.infrastructure.parametersRef: there are no parameters for this controller"
    refused = Fault("InvalidParameters", parameters) if of.has_parameters else refused
    if refused or not faulty:
        conditions.judge("Accepted", refused)
    else:
        named = ", ".join(each.listener.name for each in faulty)
        conditions.set("Accepted", not is_dead, "ListenersNotValid", f"not served: {named}; see each one's conditions")
    if refused or is_dead:
        message = refused.message if refused else "no listener can be served"
        conditions.set("Programmed", False, "Invalid", message)
    else:
        conditions.judge("Programmed", unusable)
    before = {each.get("name"): each for each in of.meta.status.get("listeners") or ()}
    entries = [_listener(each, before, attached, now) for each in listeners]
    shown = [{"type": _type(each), "value": each} for each in addresses]
    status = {**of.meta.status, "conditions": conditions.now_there, "listeners": entries, "addresses": shown}
    return _write(GATEWAYS, of.meta, status)


def _listener(
    judged: Judged, before: Mapping[Any, Mapping[str, Any]], attached: Mapping[tuple[Key, str], int], now: datetime
) -> Object:
    there = before.get(judged.listener.name, {})
    conditions = _Conditions(there.get("conditions") or (), judged.gateway.meta.generation, now)
    conflicted = judged.conflicted
    if conflicted:
        conditions.set("Conflicted", True, conflicted.reason, conflicted.message)
    else:
        conditions.set("Conflicted", False, "NoConflicts")
    conditions.judge("Accepted", judged.accepted or conflicted)
    conditions.judge("ResolvedRefs", judged.resolved)
    first = judged.conflicted or judged.accepted or judged.resolved
    if judged.is_served:
        conditions.set("Programmed", True, "Programmed")
    else:
        conditions.set("Programmed", False, "Invalid", first.message if first else "")
    kinds = [{"group": group, "kind": kind} for group, kind in judged.kinds]
    return {
        "name": judged.listener.name,
        "supportedKinds": kinds,
        "attachedRoutes": attached.get(judged.identity, 0),
        "conditions": conditions.now_there,
    }


def _addresses(of: Gateway, door: Door) -> tuple[tuple[str, ...], Fault | None, Fault | None]:
    """Return the Gateway's addresses and names, why it is refused for them, and why it has none that can be used."""
    known = {_comparable(each): each for each in door.addresses}
    found: list[str] = []
    for at, (kind, value) in enumerate(of.addresses):
        if kind not in ("IPAddress", "Hostname"):
            message = f"spec.addresses[{at}].type: {kind!r} is not supported, only IPAddress and Hostname are"
            return (), Fault("UnsupportedAddress", message), None
        if value and _type(value) != kind:
            noun = "IP address" if kind == "IPAddress" else "host name"
            message = f"spec.addresses[{at}].value: {value[:60]!r} is no {noun}"
            return (), Fault("UnsupportedAddress", message), None
        if value and _comparable(value) not in known:
            ours = ", ".join(door.addresses) or "none"
            message = f"spec.addresses[{at}].value: {value[:253]} is not the door's; its addresses are {ours}"
            return (), None, Fault("AddressNotUsable", message)
        found += [known[_comparable(value)]] if value else [each for each in door.addresses if _type(each) == kind]
    if not door.addresses or (of.addresses and not found):
        return (), None, Fault("AddressNotAssigned", "the door has no address; start it with --publish-address")
    return tuple(dict.fromkeys(found or door.addresses)), None, None


def _type(value: str) -> str:
    return "IPAddress" if address.is_address(value) else "Hostname"


def _comparable(value: str) -> object:
    """Return what is the same for two spellings of one address or name."""
    return address.parse(value) if address.is_address(value) else value.lower()


def _write(resource: Resource, meta: Meta, status: Object) -> StatusWrite | None:
    if status == meta.status or _newest(meta.status) > meta.generation:
        return None
    return StatusWrite(resource, meta.key, meta.resource_version, status)


def _newest(status: Object) -> int:
    """Return the newest generation that someone has judged: more than ours, and our copy is stale."""
    places = [status, *(status.get("listeners") or ())]
    return max(
        (each.get("observedGeneration", 0) for place in places for each in place.get("conditions") or ()), default=0
    )
