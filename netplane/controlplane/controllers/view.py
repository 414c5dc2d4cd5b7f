"""Hold what the controllers know of the cluster: informers' objects, overlaid by what we ourselves have just written.

Read-your-writes takes the place of expectations: an object we created is in the view before its watch event arrives,
one we deleted is seen as terminating, so no decision is made twice on stale facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from netplane.kube.types import LEASES, NODES, PODS, SERVICES, Key, Object, Resource, key_of

Row = tuple[Resource, Key]
_TIMED = (LEASES, NODES)
"""The types of which it matters when we saw them change or go."""
START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Change:
    """One object before and after; None where it did not exist."""

    resource: Resource
    key: Key
    old: Object | None
    new: Object | None

    @property
    def either(self) -> Object:
        """The object as it is, or as it was last."""
        found = self.new or self.old
        assert found is not None, "a change has a before or an after"
        return found


def controller_uid(obj: Object) -> str:
    """Return the uid of the controlling owner, or ""."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def revision_of(obj: Object) -> int:
    """Return the resourceVersion as a number (ours and etcd's are); 0 when absent."""
    text = obj["metadata"].get("resourceVersion") or "0"
    return int(text) if text.isdigit() else 0


@dataclass(slots=True)
class _Index:
    """Rows by some word, kept as objects come and go."""

    rows: dict[str, dict[Row, Object]] = field(default_factory=dict)

    def put(self, words: Iterable[str], row: Row, obj: Object) -> None:
        for word in words:
            self.rows.setdefault(word, {})[row] = obj

    def drop(self, words: Iterable[str], row: Row) -> None:
        for word in words:
            held = self.rows.get(word)
            if held is not None:
                held.pop(row, None)
                if not held:
                    del self.rows[word]

    def get(self, word: str) -> Mapping[Row, Object]:
        return self.rows.get(word, {})


class View:
    """Everything the controllers know. Reading is free of side effects; `apply`, `assume` and `doom` change it."""

    def __init__(self, objects: Iterable[tuple[Resource, Object]] = (), *, now: datetime = START) -> None:
        self._objects: dict[Resource, dict[Key, Object]] = {}
        self._namespaces: dict[Resource, dict[str, dict[Key, Object]]] = {}
        self._owned = _Index()
        self._controlled = _Index()
        self._on_node = _Index()
        self._labelled = _Index()
        self._selecting = _Index()
        self._uids: dict[str, Row] = {}
        self._seen: dict[Row, datetime] = {}
        self._gone: dict[Row, datetime] = {}
        self._assumed: dict[Row, tuple[int, datetime]] = {}
        self._doomed: set[str] = set()
        self.started = now
        self.resources: tuple[Resource, ...] = ()
        for resource, obj in objects:
            self.apply(Change(resource, key_of(obj), None, obj), now)

    def get(self, resource: Resource, key: Key) -> Object | None:
        """Return one object, or None."""
        return self._objects.get(resource, {}).get(key)

    def all(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """Return all objects of a type, or those of one namespace, sorted by key."""
        held = self._objects.get(resource, {}) if namespace is None else self._in_namespace(resource, namespace)
        return [held[key] for key in sorted(held)]

    def controlled(self, resource: Resource, uid: str) -> list[Object]:
        """Return the objects whose controlling owner has this uid, sorted by key."""
        return _of(self._controlled.get(uid), resource)

    def uncontrolled(self, resource: Resource, namespace: str) -> list[Object]:
        """Return the objects of a namespace that have no controlling owner, sorted by key."""
        return _of(self._controlled.get("/" + namespace), resource)

    def owned(self, uid: str) -> list[tuple[Resource, Object]]:
        """Return every object that names this uid as an owner, sorted by type and key."""
        rows = self._owned.get(uid)
        return [(row[0], rows[row]) for row in sorted(rows)]

    def on_node(self, name: str) -> list[Object]:
        """Return the Pods bound to a Node, sorted by key."""
        return _of(self._on_node.get(name), PODS)

    def labelled(self, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return the Pods of a namespace that carry all of these labels, sorted by key."""
        pairs = sorted(labels.items())
        found = min((self._labelled.get(f"{namespace}/{name}={value}") for name, value in pairs), key=len, default={})
        chosen = [obj for obj in found.values() if labels.items() <= (obj["metadata"].get("labels") or {}).items()]
        return sorted(chosen, key=key_of)

    def selecting(self, pod: Object) -> list[Object]:
        """Return the Services of the Pod's namespace whose selector it meets, sorted by key."""
        namespace, labels = key_of(pod)[0], pod["metadata"].get("labels") or {}
        found: dict[Key, Object] = {}
        for name, value in labels.items():
            for row, service in self._selecting.get(f"{namespace}/{name}={value}").items():
                if service["spec"]["selector"].items() <= labels.items():
                    found[row[1]] = service
        return [found[key] for key in sorted(found)]

    def row_of(self, uid: str) -> Row | None:
        """Return where the object of this uid stands, or None."""
        return self._uids.get(uid)

    def seen(self, resource: Resource, key: Key) -> datetime:
        """Return when we last saw this object change (by our clock, never the writer's)."""
        return self._seen.get((resource, key), self.started)

    def gone_since(self, resource: Resource, key: Key) -> datetime:
        """Return when we saw this object vanish, or when we started if it was not there then."""
        return self._gone.get((resource, key), self.started)

    def apply(self, change: Change, now: datetime) -> Change | None:
        """Take what an informer says; return the change it makes here, or None for what we know to be outdated."""
        row = (change.resource, change.key)
        held = self.get(*row)
        if change.new is None:
            if held is None or (row in self._assumed and change.old and _uid(change.old) != _uid(held)):
                return None
            return self._remove(row, held, now)
        if held is not None and row in self._assumed and revision_of(change.new) < self._assumed[row][0]:
            return None
        self._assumed.pop(row, None)
        return self._put(row, held, self._as_doomed(change.new, now), now)

    def assume(self, resource: Resource, obj: Object, now: datetime) -> Change | None:
        """Take what the API answered to a write of ours, ahead of its watch event."""
        row = (resource, key_of(obj))
        held = self.get(*row)
        if held is not None and revision_of(held) >= revision_of(obj):
            return None
        self._assumed[row] = (revision_of(obj), now)
        return self._put(row, held, self._as_doomed(obj, now), now)

    def doom(self, resource: Resource, key: Key, uid: str, now: datetime) -> Change | None:
        """See an object as terminating from now on, because the API accepted our delete."""
        held = self.get(resource, key)
        if held is None or _uid(held) != uid or held["metadata"].get("deletionTimestamp"):
            return None
        self._doomed.add(uid)
        return self._put((resource, key), held, self._as_doomed(held, now), now)

    def settle(self, revisions: Mapping[Resource, int], stores: Mapping[Resource, Mapping[Key, Object]], now: datetime,
               *, limit: float = 300.0) -> list[Change]:  # fmt: skip
        """Drop assumed objects that the informers, having read past them (or for `limit` seconds), do not hold."""
        changes = []
        for row, (revision, since) in list(self._assumed.items()):
            if revisions.get(row[0], 0) < revision and (now - since).total_seconds() < limit:
                continue
            del self._assumed[row]
            held = self.get(*row)
            if held is not None and row[1] not in stores.get(row[0], {}):
                changes.append(self._remove(row, held, now))
        return changes

    def forget(self, resource: Resource, now: datetime) -> list[Change]:
        """Drop every object of a type that is no longer served."""
        return [self._remove((resource, key), obj, now) for key, obj in list(self._objects.get(resource, {}).items())]

    def _in_namespace(self, resource: Resource, namespace: str) -> dict[Key, Object]:
        return self._namespaces.get(resource, {}).get(namespace, {})

    def _as_doomed(self, obj: Object, now: datetime) -> Object:
        if _uid(obj) not in self._doomed:
            return obj
        if obj["metadata"].get("deletionTimestamp"):
            self._doomed.discard(_uid(obj))
            return obj
        return {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ")}}

    def _put(self, row: Row, held: Object | None, obj: Object, now: datetime) -> Change:
        resource, key = row
        if held is not None:
            self._unindex(row, held)
        self._objects.setdefault(resource, {})[key] = obj
        self._namespaces.setdefault(resource, {}).setdefault(key[0], {})[key] = obj
        self._owned.put(_owner_uids(obj), row, obj)
        self._controlled.put([controller_uid(obj) or "/" + key[0]], row, obj)
        self._on_node.put(_node(resource, obj), row, obj)
        self._labelled.put(_labels(resource, obj), row, obj)
        self._selecting.put(_selector(resource, obj), row, obj)
        self._uids[_uid(obj)] = row
        if resource in _TIMED:
            self._seen[row] = now
            self._gone.pop(row, None)
        return Change(resource, key, held, obj)

    def _remove(self, row: Row, held: Object, now: datetime) -> Change:
        resource, key = row
        self._unindex(row, held)
        del self._objects[resource][key]
        del self._namespaces[resource][key[0]][key]
        self._assumed.pop(row, None)
        self._doomed.discard(_uid(held))
        if resource in _TIMED:
            self._seen.pop(row, None)
            self._gone[row] = now
        return Change(resource, key, held, None)

    def _unindex(self, row: Row, held: Object) -> None:
        self._owned.drop(_owner_uids(held), row)
        self._controlled.drop([controller_uid(held) or "/" + row[1][0]], row)
        self._on_node.drop(_node(row[0], held), row)
        self._labelled.drop(_labels(row[0], held), row)
        self._selecting.drop(_selector(row[0], held), row)
        if self._uids.get(_uid(held)) == row:
            del self._uids[_uid(held)]


def _of(rows: Mapping[Row, Object], resource: Resource) -> list[Object]:
    found = {row[1]: obj for row, obj in rows.items() if row[0] == resource}
    return [found[key] for key in sorted(found)]


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def _owner_uids(obj: Object) -> list[str]:
    return [reference["uid"] for reference in obj["metadata"].get("ownerReferences") or ()]


def _node(resource: Resource, obj: Object) -> list[str]:
    name = obj.get("spec", {}).get("nodeName") if resource == PODS else None
    return [name] if name else []


def _labels(resource: Resource, obj: Object) -> list[str]:
    """Return the words a Pod is found by: each of its labels."""
    if resource != PODS:
        return []
    namespace = key_of(obj)[0]
    return [f"{namespace}/{name}={value}" for name, value in (obj["metadata"].get("labels") or {}).items()]


def _selector(resource: Resource, obj: Object) -> list[str]:
    """Return the word a Service is found by: the first of the labels it selects; one suffices, the rest is compared."""
    selector = obj.get("spec", {}).get("selector") if resource == SERVICES else None
    if not selector:
        return []
    name = min(selector)
    return [f"{key_of(obj)[0]}/{name}={selector[name]}"]
