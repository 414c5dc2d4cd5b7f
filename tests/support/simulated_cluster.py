"""A cluster without I/O for the laws of the controllers: the API's store, a view that lags behind it, and agents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from netplane.controlplane.controllers import pods, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube import patch as patching
from netplane.kube.types import PODS, Key, Object, Resource, key_of
from netplane.lib import timestamp

Row = tuple[Resource, Key]
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """The store refused a write: a precondition failed, or a name is taken."""


class World:
    """What the API holds, and what the controllers have seen of it: watch events wait in `lag` until delivered."""

    def __init__(self) -> None:
        self.objects: dict[Row, Object] = {}
        self.view = View(now=BEGIN)
        self.lag: dict[Resource, list[Change]] = {}
        self.now = BEGIN
        self._numbers = itertools.count(1)

    def all(self, resource: Resource) -> list[Object]:
        """Return the stored objects of a type, sorted by key."""
        return [self.objects[row] for row in sorted(self.objects) if row[0] == resource]

    def seed(self, resource: Resource, obj: Object) -> Object:
        """Store an object, as a user would create it."""
        number = next(self._numbers)
        metadata = {"namespace": "default", **obj["metadata"]}
        if not resource.namespaced:
            metadata.pop("namespace")
        if "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}{number:05d}"
        given = {"uid": f"uid-{number}", "creationTimestamp": timestamp.rfc3339(self.now), "generation": 1}
        new = {"apiVersion": resource.api_version, "kind": resource.kind, **obj, "metadata": {**given, **metadata}}
        if (resource, key_of(new)) in self.objects:
            raise Refused("taken")
        return self._put(resource, new)

    def change(self, resource: Resource, key: Key, patch: Object) -> Object:
        """Merge a patch into a stored object, as a user or an agent would."""
        return self._put(resource, patching.merge(self.objects[resource, key], patch))

    def remove(self, resource: Resource, key: Key) -> None:
        """Take an object out of the store."""
        old = self.objects.pop((resource, key), None)
        if old is not None:
            self.lag.setdefault(resource, []).append(Change(resource, key, old, None))

    def deliver(self, resource: Resource, number: int = 1) -> None:
        """Let the controllers see the next events of a type."""
        waiting = self.lag.get(resource, [])
        for change in waiting[:number]:
            self.view.apply(change, self.now)
        del waiting[:number]

    def deliver_all(self) -> None:
        """Let the controllers see everything."""
        for resource in list(self.lag):
            self.deliver(resource, len(self.lag[resource]))

    def act(self, decide: Callable[[View, Any, datetime], Sequence[writes.Write]], key: Any) -> int:
        """Let a controller decide on a key and carry it out; return how many requests were accepted."""
        accepted = 0
        try:
            for write in decide(self.view, key, self.now):
                accepted += self._do(write)
        except Refused:
            pass
        return accepted

    def settle(self, steps: Iterable[tuple[Callable[..., Sequence[writes.Write]], Resource]], rounds: int = 60) -> int:
        """Run all controllers over all their objects until nothing is written; return the rounds it took."""
        steps = list(steps)
        for number in range(rounds):
            self.deliver_all()
            if not sum(self.act(decide, key_of(obj)) for decide, kind in steps for obj in self.all(kind)):
                return number
        raise AssertionError(f"not settled after {rounds} rounds")

    def run_pod(self, pod: Object, *, ready: bool = True) -> None:
        """Act as the agent: bind and run a Pod, or remove a terminating one."""
        key = key_of(pod)
        if pod["metadata"].get("deletionTimestamp"):
            self.remove(PODS, key)
            return
        condition = {
            "type": "Ready",
            "status": str(ready),
            "lastTransitionTime": timestamp.rfc3339(self.now),
        }
        self.change(
            PODS, key, {"spec": {"nodeName": "node-1"}, "status": {"phase": "Running", "conditions": [condition]}}
        )

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on."""
        self.now += timedelta(seconds=seconds)

    def available(self) -> int:
        """Return how many Pods really serve."""
        return sum(1 for pod in self.all(PODS) if pods.is_active(pod) and pods.is_ready(pod))

    def standing(self) -> int:
        """Return how many Pods there really are that nobody has asked to go."""
        return sum(1 for pod in self.all(PODS) if pods.is_active(pod))

    def _do(self, write: writes.Write) -> int:
        match write:
            case writes.Create():
                self._seen(write.resource, self.seed(write.resource, write.obj))
            case writes.Update() | writes.UpdateStatus():
                self._update(write)
            case writes.Patch():
                held = self._guarded(write.resource, write.key, write.patch.get("metadata", {}))
                patched = patching.merge(held, write.patch)
                self._seen(write.resource, self._put(write.resource, patched, bump="spec" in write.patch))
            case writes.Delete():
                self._delete(write)
            case _:
                return 0
        return 1

    def _update(self, write: writes.Update | writes.UpdateStatus) -> None:
        held = self._guarded(write.resource, key_of(write.obj), write.obj["metadata"])
        if isinstance(write, writes.UpdateStatus):
            new = {**held, "status": write.obj["status"]}
        else:
            new = {**write.obj, "metadata": {**write.obj["metadata"], "uid": held["metadata"]["uid"]}}
        self._seen(write.resource, self._put(write.resource, new))

    def _delete(self, write: writes.Delete) -> None:
        held = self.objects.get((write.resource, write.key))
        if held is not None and held["metadata"]["uid"] != write.uid:
            raise Refused("another uid")
        if held is not None and write.resource == PODS and held["spec"].get("nodeName") and write.grace_seconds != 0:
            if not held["metadata"].get("deletionTimestamp"):
                self.change(PODS, write.key, {"metadata": {"deletionTimestamp": timestamp.rfc3339(self.now)}})
        else:
            self.remove(write.resource, write.key)
        self.view.doom(write.resource, write.key, write.uid, self.now)

    def _guarded(self, resource: Resource, key: Key, metadata: Object) -> Object:
        held = self.objects.get((resource, key))
        if held is None:
            raise Refused("gone")
        for field in ("uid", "resourceVersion"):
            if field in metadata and metadata[field] != held["metadata"][field]:
                raise Refused(f"{field} differs")
        return held

    def _put(self, resource: Resource, obj: Object, *, bump: bool = False) -> Object:
        metadata = {**obj["metadata"], "resourceVersion": str(next(self._numbers))}
        if bump:
            metadata["generation"] = int(metadata.get("generation", 1)) + 1
        new = {**obj, "metadata": metadata}
        row = (resource, key_of(new))
        old = self.objects.get(row)
        self.objects[row] = new
        self.lag.setdefault(resource, []).append(Change(resource, row[1], old, new))
        return new

    def _seen(self, resource: Resource, obj: Object) -> None:
        self.view.assume(resource, obj, self.now)
