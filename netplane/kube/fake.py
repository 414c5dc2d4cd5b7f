"""Be a Kubernetes API in memory, for tests of whatever speaks to one. It keeps objects; it does not validate them.

What a server does to objects is done here too as far as clients depend on it: revisions and conflicts, uid,
generation, creation time, generateName, the status subresource, finalizers, graceful deletion of bound pods, binding,
watches with history. `tests/support` has the same behind HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from netplane.kube import errors, meta, select
from netplane.kube import watch as watching
from netplane.kube.api import ObjectList, Patch, PatchKind
from netplane.kube.types import PODS, EventType, Key, Object, Resource, key_of
from netplane.lib import clock as clocks

_Filter = Callable[[Object], bool]

_SERVER_SIDE = (
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


@dataclass(frozen=True, slots=True)
class Action:
    """One call that was made, in the order they came; tests compare these."""

    verb: str
    resource: Resource
    key: Key
    subresource: str = ""
    body: Any = None


@dataclass(slots=True)
class _Fault:
    verb: str
    resource: Resource | None
    error: errors.ApiError
    times: int


@dataclass(frozen=True, slots=True)
class _Past:
    """What happened at one revision: the object before and after, None where it was not."""

    revision: int
    resource: Resource
    old: Object | None
    new: Object | None


class FakeApi:
    """An `Api` without a server. Objects go in and come out as copies."""

    def __init__(self, *, clock: clocks.Clock = clocks.SYSTEM, has_watch_list: bool = True) -> None:
        self.actions: list[Action] = []
        self.revision = 0
        self.is_down = False
        self._clock = clock
        self._has_watch_list = has_watch_list
        self._objects: dict[Resource, dict[Key, Object]] = {}
        self._history: list[_Past] = []
        self._oldest = 0
        self._cuts = 0
        self._faults: list[_Fault] = []
        self._changed = asyncio.Event()
        self._made = 0

    def seed(self, resource: Resource, *objects: Object) -> None:
        """Put objects in as they are, as if created or replaced, without an action."""
        for obj in objects:
            self._write(resource, self._objects.get(resource, {}).get(key_of(obj)), self._fresh(resource, _copy(obj)))

    def objects(self, resource: Resource) -> dict[Key, Object]:
        """Return copies of all objects of a resource, by key."""
        return {key: _copy(obj) for key, obj in self._objects.get(resource, {}).items()}

    def drop(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Take an object away at once, as if its last finalizer had gone."""
        self._write(resource, self._found(resource, (namespace, name)), None)

    def fail(self, verb: str, error: errors.ApiError, *, resource: Resource | None = None, times: int = 1) -> None:
        """Let the next calls of this verb (of this resource) fail."""
        self._faults.append(_Fault(verb, resource, error, times))

    def go_down(self) -> None:
        """Stop answering and cut every watch, until `come_up`."""
        self.is_down = True
        self.cut_watches()

    def come_up(self) -> None:
        """Answer again."""
        self.is_down = False

    def cut_watches(self) -> None:
        """End every running watch."""
        self._cuts += 1
        self._wake()

    def compact(self) -> None:
        """Forget the history: a watch from an earlier revision is answered with Gone."""
        self._oldest = self.revision
        self._history.clear()

    async def until(self, holds: Callable[[], bool], *, seconds: float = 5.0) -> None:
        """Wait until the condition holds, looking again after each change; TimeoutError when it never does."""
        async with asyncio.timeout(seconds):
            while not holds():
                try:
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def get(self, resource: Resource, name: str, *, namespace: str = "", subresource: str = "") -> Object:
        """Return one object."""
        self._act("get", resource, (namespace, name), subresource)
        return _copy(self._found(resource, (namespace, name)))

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> ObjectList:
        """Return all objects, in the order of their keys."""
        self._act("list", resource, (namespace, ""))
        chosen = _filter(namespace, label_selector, field_selector)
        items = [_copy(obj) for _, obj in sorted(self._objects.get(resource, {}).items()) if chosen(obj)]
        return ObjectList(items, str(self.revision))

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> AsyncGenerator[ObjectList, None]:
        """Yield the objects page by page."""
        whole = await self.list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        for start in range(0, max(1, len(whole.items)), limit):
            yield ObjectList(whole.items[start : start + limit], whole.resource_version)

    async def create(
        self,
        resource: Resource,
        obj: Object,
        *,
        namespace: str | None = None,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Create the object; a POST to `binding` binds a pod."""
        made = _copy(obj)
        metadata = made.setdefault("metadata", {})
        if namespace is not None and resource.namespaced:
            metadata["namespace"] = namespace
        if subresource:
            self._act("create", resource, (metadata.get("namespace", ""), name), subresource, made)
            return self._post(resource, (metadata.get("namespace", ""), name), subresource, made)
        if not metadata.get("name"):
            self._made += 1
            metadata["name"] = f"{metadata.get('generateName', '')}{self._made:05x}"
        self._act("create", resource, key_of(made), "", made)
        if key_of(made) in self._objects.get(resource, {}):
            raise errors.already_exists(resource, metadata["name"])
        made = self._fresh(resource, made)
        if not dry_run:
            self._write(resource, None, made)
        return _copy(made)

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace the object, or only its status."""
        self._act("update", resource, key_of(obj), subresource, _copy(obj))
        return self._replace(resource, self._found(resource, key_of(obj)), _copy(obj), subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        *,
        namespace: str = "",
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "netplane",
        force: bool = False,
    ) -> Object:
        """Change the object by JSON merge patch (RFC 7396); strategic and apply are taken as that, JSON is refused."""
        self._act("patch", resource, (namespace, name), subresource, patch)
        if not isinstance(patch, dict):
            raise errors.BadRequest(400, "BadRequest", "the fake knows no JSON patch")
        there = self._objects.get(resource, {}).get((namespace, name))
        if there is None and kind == "apply":
            made = self._fresh(resource, _copy(patch))
            self._write(resource, None, made)
            return _copy(made)
        old = self._found(resource, (namespace, name))
        new = merge(_copy(old), _copy(patch))
        if "resourceVersion" not in (patch.get("metadata") or {}):
            new["metadata"].pop("resourceVersion", None)
        return self._replace(resource, old, new, subresource)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        grace_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
    ) -> None:
        """Delete the object, or mark it where finalizers or a pod's grace hold it."""
        self._act("delete", resource, (namespace, name), "", {"gracePeriodSeconds": grace_seconds})
        old = self._found(resource, (namespace, name))
        for wanted, found, what in (
            (uid, meta.uid(old), "uid"),
            (resource_version, meta.resource_version(old), "resourceVersion"),
        ):
            if wanted is not None and wanted != found:
                raise errors.conflict(resource, name, f"Precondition failed: {what} in precondition: {wanted}")
        grace = _grace(resource, old, grace_seconds)
        if not grace and not old["metadata"].get("finalizers"):
            self._write(resource, old, None)
            return
        new = _copy(old)
        new["metadata"].setdefault("deletionTimestamp", clocks.rfc3339(self._clock.now()))
        new["metadata"]["deletionGracePeriodSeconds"] = grace
        self._write(resource, old, new)

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int | None = None,
        send_initial_events: bool = False,
    ) -> AsyncGenerator[watching.Event, None]:
        """Yield what was and will be changed after `resource_version`, until `cut_watches`."""
        self._act("watch", resource, (namespace, ""))
        if send_initial_events and not self._has_watch_list:
            raise errors.Invalid(422, "Invalid", "sendInitialEvents is forbidden for watch")
        chosen = _filter(namespace, label_selector, field_selector)
        revision, cuts = int(resource_version or 0), self._cuts
        if revision and revision < self._oldest:
            raise errors.Gone(410, "Expired", f"too old resource version: {revision} ({self._oldest})")
        if not revision:
            revision = self.revision
            for event in self._initial(resource, chosen, send_initial_events):
                yield event
        while True:
            past = [entry for entry in self._history if entry.revision > revision]
            for entry in past:
                revision = entry.revision
                if entry.resource == resource and (told := _told(entry, chosen)):
                    yield watching.Event(*told, self._clock.monotonic())
            if self._cuts != cuts:
                return
            if not past and revision >= self.revision:
                await self._changed.wait()

    def _initial(self, resource: Resource, chosen: _Filter, with_end: bool) -> Iterable[watching.Event]:
        moment = self._clock.monotonic()
        for obj in list(self._objects.get(resource, {}).values()):
            if chosen(obj):
                yield watching.Event("ADDED", _copy(obj), moment)
        if with_end:
            metadata = {"resourceVersion": str(self.revision), "annotations": {watching.INITIAL_EVENTS_END: "true"}}
            yield watching.Event("BOOKMARK", {"kind": resource.kind, "metadata": metadata}, moment)

    def _act(self, verb: str, resource: Resource, key: Key, subresource: str = "", body: Any = None) -> None:
        self.actions.append(Action(verb, resource, key, subresource, body))
        if self.is_down:
            raise errors.Unreachable("fake", "connection refused")
        for fault in self._faults:
            if fault.times and fault.verb == verb and fault.resource in (None, resource):
                fault.times -= 1
                raise fault.error

    def _found(self, resource: Resource, key: Key) -> Object:
        found = self._objects.get(resource, {}).get(key)
        if found is None:
            raise errors.not_found(resource, key[1])
        return found

    def _fresh(self, resource: Resource, obj: Object) -> Object:
        metadata = obj.setdefault("metadata", {})
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        self._made += 1
        metadata.setdefault("uid", f"00000000-0000-4000-8000-{self._made:012x}")
        metadata.setdefault("creationTimestamp", clocks.rfc3339(self._clock.now()))
        if "spec" in obj:
            metadata.setdefault("generation", 1)
        return obj

    def _post(self, resource: Resource, key: Key, subresource: str, body: Object) -> Object:
        if resource == PODS and subresource == "binding":
            old = self._found(resource, key)
            new = _copy(old)
            new["spec"]["nodeName"] = body["target"]["name"]
            status = new.setdefault("status", {})
            status["conditions"] = meta.with_condition(
                status.get("conditions") or [], "PodScheduled", True, now=self._clock.now()
            )
            self._write(resource, old, new)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise errors.not_found(resource, f"{key[1]}/{subresource}")

    def _replace(self, resource: Resource, old: Object, new: Object, subresource: str) -> Object:
        before, metadata = old["metadata"], new["metadata"]
        guard = metadata.get("resourceVersion")
        if guard and guard != before["resourceVersion"]:
            raise errors.conflict(resource, before["name"])
        if metadata.get("uid") and metadata["uid"] != before["uid"]:
            raise errors.conflict(
                resource, before["name"], f"Precondition failed: UID in precondition: {metadata['uid']}"
            )
        if subresource == "status":
            new = {**_copy(old), "status": new.get("status") or {}}
        else:
            new.pop("status", None)
            if "status" in old:
                new["status"] = _copy(old["status"])
        kept = {name: before[name] for name in _SERVER_SIDE if name in before}
        new = {"apiVersion": old["apiVersion"], "kind": old["kind"], **new, "metadata": {**new["metadata"], **kept}}
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = before.get("generation", 1) + 1
        if new == old:
            return _copy(old)
        is_released = meta.is_deleting(new) and not new["metadata"].get("finalizers")
        if is_released and not before.get("deletionGracePeriodSeconds"):
            self._write(resource, old, None)
            return _copy(new)
        self._write(resource, old, new)
        return _copy(new)

    def _write(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        self.revision += 1
        objects = self._objects.setdefault(resource, {})
        if new is not None:
            new["metadata"]["resourceVersion"] = str(self.revision)
            objects[key_of(new)] = new
        elif old is not None:
            del objects[key_of(old)]
        self._history.append(_Past(self.revision, resource, old, new))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def merge(target: Any, patch: Any) -> Any:
    """Return the target changed by a JSON merge patch: null removes, objects merge, all else replaces (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _copy(obj: Object) -> Object:
    copied: Object = orjson.loads(orjson.dumps(obj))
    return copied


def _filter(namespace: str, label_selector: str, field_selector: str) -> _Filter:
    by_labels, by_fields = select.parse(label_selector), select.parse_fields(field_selector)

    def chosen(obj: Object) -> bool:
        is_inside = not namespace or obj["metadata"].get("namespace", "") == namespace
        return is_inside and by_labels.matches(meta.labels(obj)) and by_fields.matches(obj)

    return chosen


def _told(past: _Past, chosen: _Filter) -> tuple[EventType, Object] | None:
    """Return what a watcher with this filter is told: leaving the selection looks like deletion."""
    was = past.old is not None and chosen(past.old)
    if past.new is not None and chosen(past.new):
        return ("MODIFIED" if was else "ADDED"), _copy(past.new)
    if was and past.old is not None:
        last = _copy(past.new or past.old)
        last["metadata"]["resourceVersion"] = str(past.revision)
        return "DELETED", last
    return None


def _grace(resource: Resource, obj: Object, asked: int | None) -> int:
    """Return how long the object lives on after deletion: only pods on a node do, until their agent lets go."""
    spec = obj.get("spec") or {}
    if resource != PODS or not spec.get("nodeName"):
        return 0
    if asked is not None:
        return asked
    grace: int = spec.get("terminationGracePeriodSeconds", 30)
    return grace
