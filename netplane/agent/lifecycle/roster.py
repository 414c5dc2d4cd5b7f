"""Have one worker for each pod of the node, and for what is left of pods that the API has no more."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Never

from netplane.agent.lifecycle.services import Services
from netplane.agent.lifecycle.worker import Worker
from netplane.agent.pods import spec
from netplane.agent.pods.config import GRACE
from netplane.agent.pods.spec import Pod
from netplane.agent.runtime.protocol import SandboxStatus
from netplane.kube import meta
from netplane.kube.informer import Batch, Informers
from netplane.kube.types import PODS, Object
from netplane.lib import log

RESTART = 5.0

_log = log.get("agent")


class Roster:
    """The workers by pod UID."""

    def __init__(self, services: Services, informers: Informers) -> None:
        self._services = services
        self._informers = informers
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(tuple(self._workers.values()))

    def find(self, namespace: str, name: str) -> Worker | None:
        """Return the worker of a pod; of two of one name the one that lives."""
        found = [w for w in self if (w.pod.namespace, w.pod.name) == (namespace, name)]
        return min(found, key=lambda worker: worker.pod.deleted_at is not None, default=None)

    def objects_changed(self, uids: Collection[str]) -> None:
        """Tell the pods that look at an object that it changed."""
        for uid in uids:
            if worker := self._workers.get(uid):
                worker.objects_changed()

    async def run(self) -> Never:
        """Follow the API and the runtime until cancelled; pods then run on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_runtime())
            is_first = True
            async for batch in self._informers.batches():
                self._take(group, batch)
                if is_first:
                    is_first = False
                    self._adopt_orphans(group)
        raise AssertionError("batches never end")

    async def _follow_runtime(self) -> None:
        async for uid in self._services.runtime.changes():
            if worker := self._workers.get(uid):
                worker.poke()

    def _take(self, group: asyncio.TaskGroup, batch: Batch) -> None:
        for change in batch.changes:
            if change.resource != PODS:
                continue
            old, new = change.old, change.new
            if old is not None and (new is None or meta.uid(new) != meta.uid(old)):
                self._vanished(meta.uid(old))
            if new is not None:
                self._offered(group, new)

    def _offered(self, group: asyncio.TaskGroup, obj: Object) -> None:
        try:
            pod = spec.read(obj)
        except (KeyError, TypeError, ValueError) as error:
            _log.error("pod makes no sense", pod=str(obj.get("metadata", {}).get("name")), error=repr(error))
            return
        if worker := self._workers.get(pod.uid):
            worker.offer(pod)
        else:
            self._start(group, Worker(pod, self._services))

    def _vanished(self, uid: str) -> None:
        if worker := self._workers.get(uid):
            worker.vanish()

    def _adopt_orphans(self, group: asyncio.TaskGroup) -> None:
        """Clean up after pods that were deleted while no agent was here."""
        for sandbox in self._services.runtime.sandboxes():
            if sandbox.uid not in self._workers:
                self._start(group, Worker(_remembered(sandbox), self._services, is_gone=True))
        folder = self._services.node.pods_folder
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in self._workers:
                group.create_task(self._sweep(path))

    async def _sweep(self, path: Path) -> None:
        await self._services.volumes.release(path.name)
        await asyncio.to_thread(shutil.rmtree, path, True)

    def _start(self, group: asyncio.TaskGroup, worker: Worker) -> None:
        self._workers[worker.pod.uid] = worker
        group.create_task(self._work(worker))

    async def _work(self, worker: Worker) -> None:
        try:
            while True:
                try:
                    await worker.run()
                    return
                except Exception:
                    # A fault in keeping one pod must not end the keeping of all.
                    _log.exception("keeper failed; beginning anew", pod=f"{worker.pod.namespace}/{worker.pod.name}")
                await self._services.clock.sleep(RESTART)
                worker = worker.successor()
                self._workers[worker.pod.uid] = worker
        finally:
            self._workers.pop(worker.pod.uid, None)


def _remembered(sandbox: SandboxStatus) -> Pod:
    """Return what is known of a pod whose object is gone."""
    return Pod(
        obj={"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": sandbox.namespace, "name": sandbox.name}},
        uid=sandbox.uid,
        namespace=sandbox.namespace,
        name=sandbox.name,
        containers=(),
        init_containers=(),
        restart_policy="Always",
        grace=int(sandbox.annotations.get(GRACE, "30")),
        host_network=False,
    )
