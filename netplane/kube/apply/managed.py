"""Who owns which field: kept in `metadata.managedFields`, changed by every write, asked by every apply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from netplane.kube.apply import fields
from netplane.kube.apply.fields import CONTAINER, Fields, Path
from netplane.kube.apply.merge import merge, without
from netplane.kube.shape import Shape

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MAX_UPDATERS = 10
_UNOWNED_TOP = frozenset({"apiVersion", "kind"})
_UNOWNED_METADATA = frozenset({
    "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
    "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds",
})  # fmt: skip
_NEVER_OWNED = {(f"f:{name}",) for name in _UNOWNED_TOP} | {("f:metadata", f"f:{name}") for name in _UNOWNED_METADATA}

Object = dict[str, Any]


class Manager(NamedTuple):
    """Whose entry it is. Appliers have one entry whatever the version; updaters one for each version."""

    name: str
    operation: str
    api_version: str
    subresource: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A field that another manager owns with another value."""

    manager: Manager
    path: Path

    def cause(self) -> Object:
        """The conflict as an entry of `Status.details.causes`."""
        message = f"conflict with {_shown(self.manager)}"
        return {"reason": "FieldManagerConflict", "message": message, "field": fields.text(self.path)}


class ConflictError(Exception):
    """An apply without force meets fields that others own: a 409 with a cause for each."""

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        super().__init__(_message(conflicts))
        self.conflicts = conflicts


def _shown(manager: Manager) -> str:
    text = orjson.dumps(manager.name).decode()
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {manager.api_version}" if manager.operation == "Update" else text


def _message(conflicts: tuple[Conflict, ...]) -> str:
    if len(conflicts) == 1:
        one = conflicts[0]
        return f"Apply failed with 1 conflict: conflict with {_shown(one.manager)}: {fields.text(one.path)}"
    by_manager: dict[Manager, list[str]] = {}
    for each in conflicts:
        by_manager.setdefault(each.manager, []).append(fields.text(each.path))
    lines: list[str] = []
    for manager in sorted(by_manager):
        lines += [f"conflicts with {_shown(manager)}:", *(f"- {path}" for path in by_manager[manager])]
    return f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)


def apply(
    live: Object | None,
    config: Object,
    *,
    shape: Shape,
    manager: str,
    force: bool,
    now: str,
    subresource: str = "",
    ignored: Iterable[str] = (),
) -> Object:
    """Return what applying the configuration makes of the live object, with its managedFields.

    `ignored` names top-level fields that this endpoint does not write (`status`, or all but it): they are neither
    merged nor owned. What the manager applied before and applies no more goes, unless another manager owns it.
    Applying the same again changes nothing. Raises ConflictError when others own changed fields, unless `force`.
    """
    config = {key: value for key, value in config.items() if key not in ignored}
    config["metadata"] = {k: v for k, v in config.get("metadata", {}).items() if k != "managedFields"}
    api_version = config["apiVersion"]
    me = Manager(manager, "Apply", api_version, subresource)
    entries = _Entries.read(live, shape)
    before = entries.fields(me)
    wanted = _owned(fields.of(config, shape))
    if live is None:
        entries.put(me, wanted, now)
        return entries.write(config)
    merged = merge(live, config, shape)
    gone = _abandoned(before - wanted, wanted, [f for m, f in entries.items() if _identity(m) != _identity(me)])
    merged = without(merged, gone, shape)
    changed, removed = _compare(fields.of(live, shape), fields.of(merged, shape))
    conflicts = entries.overlaps(me, changed)
    if conflicts and not force and not _is_upgrade(live, manager, conflicts, shape):
        raise ConflictError(tuple(Conflict(m, path) for m, paths in conflicts.items() for path in sorted(paths)))
    entries.take(me, changed, removed)
    entries.put(me, wanted, now)
    _refresh_last_applied(merged, config, manager)
    return entries.write(merged)


def track(
    live: Object | None,
    new: Object,
    *,
    shape: Shape,
    manager: str,
    now: str,
    subresource: str = "",
    ignored: Iterable[str] = (),
) -> list[Object]:
    """Return the managedFields of an object after a write that is no apply: its writer owns what it changed.

    A client may edit the entries themselves: those of `new` count when they can be read; `[{}]` forgets them all.
    """
    given = new.get("metadata", {}).get("managedFields")
    if live is None and not given:
        return _first_entry(new, Manager(manager, "Update", new["apiVersion"], subresource), shape, now, ignored)
    source = new if given else live
    entries = _Entries.read(None if given == [{}] else source, shape, assume=False)
    changed, removed = _compare(fields.of(live, shape) if live else {}, fields.of(new, shape))
    skipped = {f"f:{name}" for name in ignored}
    changed = frozenset(path for path in changed if path[0] not in skipped)
    me = Manager(manager, "Update", new["apiVersion"], subresource)
    entries.take(me, changed, removed)
    entries.put(me, (entries.fields(me) | changed) - removed, now)
    entries.merge_ancient(now)
    return entries.dump()


def _first_entry(new: Object, me: Manager, shape: Shape, now: str, ignored: Iterable[str]) -> list[Object]:
    """Return the managedFields of an object that nobody has written before: all of it is the writer's."""
    skipped = {*ignored, *_UNOWNED_TOP}
    metadata = {name: value for name, value in new.get("metadata", {}).items() if name not in _UNOWNED_METADATA}
    mine = {name: value for name, value in new.items() if name not in skipped and name != "metadata"}
    if metadata and "metadata" not in skipped:
        mine["metadata"] = metadata
    owned: Object | None = fields.tree_of_new(mine, shape) if mine.get("spec") else None
    if owned is None:
        owned = fields.tree(mine, shape, is_member=False) or {}
    return [_written(me, owned, now)] if owned else []


def _owned(found: Iterable[Path]) -> Fields:
    return frozenset(path for path in found if path not in _NEVER_OWNED and path[:2] not in _NEVER_OWNED)


def _compare(old: Mapping[Path, Any], new: Mapping[Path, Any]) -> tuple[Fields, Fields]:
    """Return the fields that were added or have another value, and those that are gone."""
    changed = {path for path, value in new.items() if path not in old or _is_other(old[path], value)}
    return _owned(changed), _owned(old.keys() - new.keys())


def _is_other(one: Any, other: Any) -> bool:
    if one is CONTAINER or other is CONTAINER:
        return False
    return type(one) is not type(other) or bool(one != other)


def _abandoned(dropped: Fields, wanted: Fields, others: list[Fields]) -> list[Path]:
    """Return the dropped fields that nobody else owns, or owns anything beneath."""
    kept: set[Path] = set()
    for owned in (*others, wanted):
        for path in owned:
            kept.update(path[:length] for length in range(1, len(path) + 1))
    return [path for path in dropped if path not in kept]


def _identity(manager: Manager) -> Manager:
    return manager._replace(api_version="") if manager.operation == "Apply" else manager


class _Entries:
    """The entries of managedFields, read, changed and written in order."""

    __slots__ = ("_by_identity",)

    def __init__(self) -> None:
        self._by_identity: dict[Manager, tuple[Manager, Fields, str]] = {}

    @classmethod
    def read(cls, obj: Object | None, shape: Shape, *, assume: bool = True) -> _Entries:
        """Read an object's entries; one without any belongs to `before-first-apply`, if `assume`."""
        entries = cls()
        given = (obj or {}).get("metadata", {}).get("managedFields") or []
        for each in given:
            try:
                owned = fields.load(each.get("fieldsV1") or {})
            except ValueError:
                continue
            operation, version = each.get("operation", "Update"), each.get("apiVersion", "")
            manager = Manager(each.get("manager", ""), operation, version, each.get("subresource", ""))
            entries._by_identity[_identity(manager)] = (manager, owned, each.get("time", ""))
        if obj and not given and assume:
            first = Manager("before-first-apply", "Update", obj["apiVersion"], "")
            entries.put(first, _owned(fields.of(obj, shape)), "")
        return entries

    def fields(self, manager: Manager) -> Fields:
        """Return what a manager owns."""
        known = self._by_identity.get(_identity(manager))
        return known[1] if known else frozenset()

    def items(self) -> list[tuple[Manager, Fields]]:
        """Every manager with what it owns."""
        return [(manager, owned) for manager, owned, _ in self._by_identity.values()]

    def overlaps(self, me: Manager, changed: Fields) -> dict[Manager, Fields]:
        """Return what others own of the changed fields."""
        found = {m: owned & changed for m, owned in self.items() if _identity(m) != _identity(me)}
        return {manager: paths for manager, paths in sorted(found.items()) if paths}

    def take(self, me: Manager, changed: Fields, removed: Fields) -> None:
        """Take changed fields from all others, and removed fields from all."""
        for identity, (manager, owned, time) in list(self._by_identity.items()):
            left = owned - removed if identity == _identity(me) else owned - removed - changed
            if not left:
                del self._by_identity[identity]
            elif left != owned:
                self._by_identity[identity] = (manager, left, time)

    def put(self, manager: Manager, owned: Fields, now: str) -> None:
        """Set what a manager owns; the time changes only when that does."""
        known = self._by_identity.get(_identity(manager))
        if not owned:
            self._by_identity.pop(_identity(manager), None)
        elif known is None or known[1] != owned or known[0] != manager:
            self._by_identity.pop(_identity(manager), None)
            self._by_identity[_identity(manager)] = (manager, owned, now)

    def merge_ancient(self, now: str) -> None:
        """Keep the number of updaters small: the oldest become `ancient-changes`."""
        updaters = [m for m, _, _ in self._by_identity.values() if m.operation == "Update" and not m.subresource]
        updaters.sort(key=lambda m: (m.name != "ancient-changes", self._by_identity[_identity(m)][2]))
        surplus = len(updaters) - _MAX_UPDATERS
        if surplus <= 0:
            return
        by_version: dict[str, Fields] = {}
        for manager in updaters[: surplus + 1]:
            owned = self._by_identity.pop(_identity(manager))[1]
            by_version[manager.api_version] = by_version.get(manager.api_version, frozenset()) | owned
        for version, owned in by_version.items():
            self.put(Manager("ancient-changes", "Update", version, ""), owned, now)

    def write(self, obj: Object) -> Object:
        """Return the object with these entries."""
        metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
        return {**obj, "metadata": {**metadata, "managedFields": self.dump()}}

    def dump(self) -> list[Object]:
        """Return the entries as managedFields holds them: appliers first, then by time."""
        rows = sorted(self._by_identity.values(), key=lambda row: (row[0].operation, row[2], row[0]))
        return [_entry(manager, owned, time) for manager, owned, time in rows]


def _entry(manager: Manager, owned: Fields, time: str) -> Object:
    return _written(manager, fields.dump(owned), time)


def _written(manager: Manager, tree: Object, time: str) -> Object:
    entry: Object = {"manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version}
    if time:
        entry["time"] = time
    entry |= {"fieldsType": "FieldsV1", "fieldsV1": tree}
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


def _is_upgrade(live: Object, manager: str, conflicts: Mapping[Manager, Fields], shape: Shape) -> bool:
    """True when kubectl goes over from client-side apply: all it fights for is as it had last applied it itself."""
    applied = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if manager != "kubectl" or not applied:
        return False
    try:
        last = fields.of(orjson.loads(applied), shape)
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return False
    now = fields.of(live, shape)
    known = _owned({path for path, value in last.items() if path in now and not _is_other(value, now[path])})
    return all(paths <= known for paths in conflicts.values())


def _refresh_last_applied(merged: Object, config: Object, manager: str) -> None:
    """Keep the annotation true for those who still apply at the client."""
    annotations = merged["metadata"].get("annotations") or {}
    if manager != "kubectl" or LAST_APPLIED not in annotations:
        return
    kept = {k: v for k, v in (config["metadata"].get("annotations") or {}).items() if k != LAST_APPLIED}
    plain = {**config, "metadata": {**config["metadata"], "annotations": kept}}
    text = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    merged["metadata"] = {**merged["metadata"], "annotations": {**annotations, LAST_APPLIED: text}}
