"""Hold namespaces to their ResourceQuotas and LimitRanges. What objects use is registry's quota.

A write first books what it will use in the quota's status, guarded by the revision, so that of two writes that would
together go beyond a bound one is refused, whichever server they reach. What was booked and then not written, and
what is deleted, is put right by counting again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from decimal import Decimal

import orjson

from netplane.controlplane.api import cluster, status
from netplane.controlplane.registry import types
from netplane.controlplane.registry.quota import limits, usage
from netplane.controlplane.store import protocol
from netplane.kube import known
from netplane.kube.types import Key, Object

_QUOTAS, _RANGES = "resourcequotas", "limitranges"
_ATTEMPTS = 32
_COUNT_SECONDS = 1.0
_LIMITED = frozenset({"pods", "persistentvolumeclaims"})
_CHANGING = frozenset({"pods", "persistentvolumeclaims", "services"})


def fill(at: cluster.Cluster, of: types.ResourceType, obj: Object, namespace: str) -> None:
    """Give a new pod what its namespace's LimitRanges say by default."""
    if of.plural == "pods" and not of.group and at.store.cache(_RANGES).records:
        known.thaw(obj, "spec")
        limits.fill(obj, _in(at, _RANGES, namespace))


def check_ranges(at: cluster.Cluster, of: types.ResourceType, obj: Object, namespace: str) -> None:
    """Raise 403 for a new object that its namespace's LimitRanges do not allow."""
    if of.group or of.plural not in _LIMITED or not at.store.cache(_RANGES).records:
        return
    found = limits.problems(of.plural, obj, _in(at, _RANGES, namespace))
    if found:
        told = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
        raise _forbidden(of, obj, told)


def any_quota(at: cluster.Cluster) -> bool:
    """Whether there are quotas at all."""
    return bool(at.store.cache(_QUOTAS).records)


@contextlib.contextmanager
def booking(at: cluster.Cluster, namespace: str) -> Iterator[None]:
    """Hold counting off a namespace while a write is between its booking and the store: it would undo the booking."""
    at.bookings[namespace] += 1
    try:
        yield
    finally:
        at.bookings[namespace] -= 1
        if not at.bookings[namespace]:
            del at.bookings[namespace]


async def charge(
    at: cluster.Cluster, of: types.ResourceType, obj: Object, old: Object | None, *, is_dry_run: bool
) -> None:
    """Book what a write will use; raise 403 when a quota does not allow it."""
    namespace = obj["metadata"].get("namespace", "")
    if not namespace or (old is not None and (of.group or of.plural not in _CHANGING)):
        return
    resource = of.stored
    delta = usage.usage(resource.plural, resource.group, obj)
    for name, amount in (usage.usage(resource.plural, resource.group, old) if old is not None else {}).items():
        delta[name] = delta.get(name, Decimal(0)) - amount
    if old is not None and not any(amount > 0 for amount in delta.values()):
        return
    for record in list(at.store.cache(_QUOTAS).range(namespace=namespace)):
        await _charge_one(at, of, obj, record.key, delta, is_new=old is None, is_dry_run=is_dry_run)


async def _charge_one(
    at: cluster.Cluster,
    of: types.ResourceType,
    obj: Object,
    key: Key,
    delta: usage.Usage,
    *,
    is_new: bool,
    is_dry_run: bool,
) -> None:
    """Book a write with one quota; counted again from the start when somebody else has written the quota meanwhile."""
    for _ in range(_ATTEMPTS):
        record = at.store.latest(_QUOTAS, key)
        if record is None:
            return
        booked = _booked(at, of, obj, orjson.loads(record.value), delta, is_new=is_new)
        if booked is None or is_dry_run:
            return
        try:
            await at.store.update(_QUOTAS, booked, expected=record.revision)
            return
        except protocol.Conflict:
            continue
        except protocol.Missing:
            return
    raise status.conflict(at.type_of("", "v1", _QUOTAS), key[1])


def _booked(
    at: cluster.Cluster, of: types.ResourceType, obj: Object, quota: Object, delta: usage.Usage, *, is_new: bool
) -> Object | None:
    """Return the quota with a write booked, None when it has nothing to do with the write; 403 when it does not fit."""
    if not usage.concerns(quota, of.stored.plural, of.stored.group, obj):
        return None
    namespace, name = quota["metadata"]["namespace"], quota["metadata"]["name"]
    bounds = usage.hard(quota)
    mine = {resource: amount for resource, amount in delta.items() if resource in bounds and amount}
    if is_new and of.plural == "pods" and not of.group:
        missing = usage.undeclared(quota, obj)
        if missing:
            raise _forbidden(of, obj, f"failed quota: {name}: must specify {missing}")
    if not mine:
        return None
    is_counted = bool((quota.get("status") or {}).get("used"))
    held = usage.used(quota) if is_counted else _counted(at, namespace, [quota])[0]
    broken = usage.exceeded(quota, mine, held)
    if broken:
        raise _forbidden(of, obj, _exceeded(name, broken, mine, held, bounds, quota))
    total = {each: held.get(each, Decimal(0)) + mine.get(each, Decimal(0)) for each in bounds}
    return _with_status(quota, total)


def _exceeded(
    name: str, broken: Iterable[str], delta: usage.Usage, held: usage.Usage, bounds: usage.Usage, quota: Object
) -> str:
    like = quota["spec"]["hard"]

    def shown(amounts: usage.Usage) -> str:
        chosen = usage.texts({each: amounts.get(each, Decimal(0)) for each in broken}, like)
        return ",".join(f"{each}={text}" for each, text in chosen.items())

    return f"exceeded quota: {name}, requested: {shown(delta)}, used: {shown(held)}, limited: {shown(bounds)}"


def _forbidden(of: types.ResourceType, obj: Object, why: str) -> status.ApiStatus:
    name = obj["metadata"].get("name") or obj["metadata"].get("generateName", "")
    message = f'{of.resource.group_resource} "{name}" is forbidden: {why}'
    return status.forbidden(message, group=of.group, plural=of.plural, name=name)


def _in(at: cluster.Cluster, storage: str, namespace: str) -> list[Object]:
    return [orjson.loads(record.value) for record in at.store.cache(storage).range(namespace=namespace)]


def _with_status(quota: Object, total: usage.Usage) -> Object:
    like = quota["spec"].get("hard") or {}
    return {**quota, "status": {"hard": dict(like), "used": usage.texts(total, like)}}


async def follow(at: cluster.Cluster) -> None:
    """Count again whenever something changed in a namespace with a quota, once a second at most, until cancelled."""
    feed, seen = at.store.feed(_QUOTAS), tuple[int, ...]()
    while True:
        quotas = at.store.cache(_QUOTAS)
        if quotas.records:
            state = tuple(at.store.cache(cluster.storage(of)).window.end for of in at.registry.stored_types())
            if state != seen:
                seen = state if await _count(at) else ()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_SECONDS if quotas.records else None):
                await feed.wait()
        if quotas.records:
            await at.clock.sleep(0.05)  # let a burst of changes be counted together


async def _count(at: cluster.Cluster) -> bool:
    """Count every namespace with a quota; return False when one must be counted later."""
    namespaces = sorted({record.key[0] for record in at.store.cache(_QUOTAS).range()})
    is_whole = True
    for namespace in namespaces:
        if namespace in at.bookings:
            is_whole = False
            continue
        records = list(at.store.cache(_QUOTAS).range(namespace=namespace))
        quotas: list[Object] = [orjson.loads(record.value) for record in records]
        for record, quota, total in zip(records, quotas, _counted(at, namespace, quotas), strict=True):
            wanted = _with_status(quota, total)
            if wanted["status"] != quota.get("status"):
                with contextlib.suppress(protocol.StoreError):
                    await at.store.update(_QUOTAS, wanted, expected=record.revision)
        await asyncio.sleep(0)
    return is_whole


def _counted(at: cluster.Cluster, namespace: str, quotas: list[Object]) -> list[usage.Usage]:
    """Return what each quota's bounds are used of now, by counting the objects there are."""
    totals = [dict.fromkeys(usage.hard(quota), Decimal(0)) for quota in quotas]
    names = {name for total in totals for name in total}
    for of in at.registry.stored_types():
        if not of.namespaced or not _is_counted(of, names):
            continue
        storage = cluster.storage(of)
        found = {record.key: record for record in at.store.cache(storage).range(namespace=namespace)}
        found |= {record.key: record for record in at.store.staged(storage) if record.key[0] == namespace}
        for record in found.values():
            obj = orjson.loads(record.value)
            amounts = usage.usage(of.plural, of.group, obj)
            for quota, total in zip(quotas, totals, strict=True):
                if usage.concerns(quota, of.plural, of.group, obj):
                    for name in total.keys() & amounts.keys():
                        total[name] += amounts[name]
    return totals


def _is_counted(of: types.ResourceType, names: Iterable[str]) -> bool:
    counted = f"count/{of.plural}.{of.group}" if of.group else f"count/{of.plural}"
    if of.group:
        return counted in names
    plain = {each for each in names if not each.startswith("count/")}
    if of.plural == "pods":
        return counted in names or any("/" not in each or each.startswith(("requests.", "limits.")) for each in plain)
    if of.plural == "persistentvolumeclaims":
        return counted in names or any("storage" in each or each == of.plural for each in plain)
    return counted in names or any(each == of.plural or each.startswith(f"{of.plural}.") for each in plain)
