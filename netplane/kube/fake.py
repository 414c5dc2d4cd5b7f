"""Be a Kubernetes API in memory, for tests of whatever speaks to one. It keeps objects; it does not validate them.

What a server does to objects is done here too as far as clients depend on it: revisions and conflicts, uid,
generation, creation time, generateName, the status subresource, finalizers, graceful deletion of bound pods, binding,
watches with history. `tests/support` has the same behind HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from netplane.kube import errors, meta
from netplane.kube import fake_rules as rules
from netplane.kube import watch as watching
from netplane.kube.api import ObjectList, Patch, PatchKind
from netplane.kube.types import PODS, Key, Object, Resource, key_of
from netplane.lib import clock as clocks


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


class FakeApi:
    """An `Api` without a server. Objects go in and come out as copies."""

    def __init__(self, *, clock: clocks.Clock = clocks.SYSTEM, has_watch_list: bool = True) -> None:
        self.actions: list[Action] = []
        self.revision = 0
        self.is_down = False
        self._clock = clock
        self._has_watch_list = has_watch_list
        self._objects: dict[Resource, dict[Key, Object]] = {}
        self._history: list[rules.Past] = []
        self._oldest = 0
        self._cuts = 0
        self._faults: list[_Fault] = []
        self._changed = asyncio.Event()
        self._made = 0

    def seed(self, resource: Resource, *objects: Object) -> None:
        """Put objects in as they are, as if created or replaced, without an action."""
        for obj in objects:
            self._write(
                resource, self._objects.get(resource, {}).get(key_of(obj)), self._fresh(resource, rules.copy(obj))
            )

    def objects(self, resource: Resource) -> dict[Key, Object]:
        """Return copies of all objects of a resource, by key."""
        return {key: rules.copy(obj) for key, obj in self._objects.get(resource, {}).items()}

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

    async def until(self, holds: Callable[[], bool], *, seconds: float = 20.0) -> None:
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
        return rules.copy(self._found(resource, (namespace, name)))

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
        chosen = rules.selection(namespace, label_selector, field_selector)
        items = [rules.copy(obj) for _, obj in sorted(self._objects.get(resource, {}).items()) if chosen(obj)]
        return ObjectList(items, str(self.revision))

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        reader: watching.Reader | None = None,
    ) -> AsyncGenerator[ObjectList, None]:
        """Yield the objects page by page; a reader has no bytes to read here."""
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
        made = rules.copy(obj)
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
        return rules.copy(made)

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace the object, or only its status."""
        self._act("update", resource, key_of(obj), subresource, rules.copy(obj))
        return self._replace(resource, self._found(resource, key_of(obj)), rules.copy(obj), subresource)

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
        """Change the object. An apply is taken as a merge patch; of strategic merges only conditions merge by key."""
        self._act("patch", resource, (namespace, name), subresource, patch)
        if kind == "apply" and isinstance(patch, dict) and (namespace, name) not in self._objects.get(resource, {}):
            made = self._fresh(resource, rules.copy(patch))
            self._write(resource, None, made)
            return rules.copy(made)
        old = self._found(resource, (namespace, name))
        new = rules.patched(rules.copy(old), patch, kind)
        if not isinstance(patch, dict) or "resourceVersion" not in (patch.get("metadata") or {}):
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
        if uid not in (None, meta.uid(old)):
            raise errors.conflict(resource, name, f"Precondition failed: UID in precondition: {uid}")
        if resource_version not in (None, meta.resource_version(old)):
            raise errors.conflict(resource, name, f"Precondition failed: ResourceVersion: {resource_version}")
        grace = rules.grace(resource, old, grace_seconds)
        if not grace and not old["metadata"].get("finalizers"):
            self._write(resource, old, None)
            return
        new = rules.copy(old)
        new["metadata"].setdefault("deletionTimestamp", clocks.rfc3339(self._clock.now()))
        new["metadata"]["deletionGracePeriodSeconds"] = grace
        self._write(resource, old, new)

    def unread(self) -> contextlib.AbstractContextManager[None]:
        """Change nothing: what is in memory costs nothing to read."""
        return contextlib.nullcontext()

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
        reader: watching.Reader | None = None,
    ) -> AsyncGenerator[watching.Event, None]:
        """Yield what was and will be changed after `resource_version`, until `cut_watches`."""
        self._act("watch", resource, (namespace, ""))
        if send_initial_events and not self._has_watch_list:
            raise errors.Invalid(422, "Invalid", "sendInitialEvents is forbidden for watch")
        chosen = rules.selection(namespace, label_selector, field_selector)
        revision, cuts = int(resource_version or 0), self._cuts
        if revision and revision < self._oldest:
            raise errors.Gone(410, "Expired", f"too old resource version: {revision} ({self._oldest})")
        if resource_version:
            yield watching.resumed(resource_version)
        if not revision:
            revision = self.revision
            for event in self._initial(resource, chosen, revision if send_initial_events else None):
                yield event
        while True:
            # Revisions follow each other without a gap, so where to go on is known without looking.
            past = self._history[max(0, revision - self._oldest) :]
            for entry in past:
                revision = entry.revision
                if entry.resource == resource and (told := rules.told(entry, chosen)):
                    yield watching.Event(*told, self._clock.monotonic())
            if self._cuts != cuts:
                return
            if not past and revision >= self.revision:
                await self._changed.wait()

    def _initial(self, resource: Resource, chosen: rules.Filter, end: int | None) -> Iterable[watching.Event]:
        """Yield the objects that are there when asked first, and that they were all as of the revision `end`."""
        moment = self._clock.monotonic()
        for obj in list(self._objects.get(resource, {}).values()):
            if chosen(obj):
                yield watching.Event("ADDED", rules.copy(obj), moment)
        if end is not None:
            metadata = {"resourceVersion": str(end), "annotations": {watching.INITIAL_EVENTS_END: "true"}}
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
            new = rules.copy(old)
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
        new = rules.replaced(old, new, is_status=subresource == "status")
        if new == old:
            return rules.copy(old)
        is_released = meta.is_deleting(new) and not new["metadata"].get("finalizers")
        if is_released and not before.get("deletionGracePeriodSeconds"):
            self._write(resource, old, None)
            return rules.copy(new)
        self._write(resource, old, new)
        return rules.copy(new)

    def _write(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        self.revision += 1
        objects = self._objects.setdefault(resource, {})
        if new is not None:
            new["metadata"]["resourceVersion"] = str(self.revision)
            objects[key_of(new)] = new
        elif old is not None:
            del objects[key_of(old)]
        self._history.append(rules.Past(self.revision, resource, old, new))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
