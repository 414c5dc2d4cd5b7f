"""Put the agent's pod keeping together with an API in memory and a fake or real runtime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.agent.lifecycle.roster import Roster
from netplane.agent.lifecycle.services import Services
from netplane.agent.pods.config import NodeFacts
from netplane.agent.probes.checks import Checks
from netplane.agent.references import References
from netplane.agent.runtime.protocol import Runtime
from netplane.agent.volumes.run import Volumes
from netplane.kube.events import Recorder
from netplane.kube.fake import FakeApi
from netplane.kube.informer import Informers, Query
from netplane.kube.types import EVENTS, PODS, SERVICES, Object
from netplane.lib.clock import Clock


@dataclass(slots=True)
class Rig:
    """A node's pod keeping, running."""

    api: FakeApi
    roster: Roster
    services: Services

    def pod(self, name: str = "web") -> Object:
        """Return the pod as the API has it; empty when it is gone."""
        return self.api.objects(PODS).get(("default", name), {})

    def status(self, name: str = "web") -> dict[str, Any]:
        """Return its status."""
        found: dict[str, Any] = self.pod(name).get("status") or {}
        return found

    def container(self, name: str = "main", pod: str = "web") -> dict[str, Any]:
        """Return the status of one of its containers."""
        statuses = [*self.status(pod).get("initContainerStatuses", ()), *self.status(pod).get("containerStatuses", ())]
        return next((status for status in statuses if status["name"] == name), {})

    def condition(self, kind: str, pod: str = "web") -> str:
        """Return the status of one of its conditions."""
        return next((str(c["status"]) for c in self.status(pod).get("conditions", ()) if c["type"] == kind), "")

    def waiting(self, name: str = "main", pod: str = "web") -> str:
        """Return why a container waits."""
        state: dict[str, Any] = self.container(name, pod).get("state") or {}
        return str((state.get("waiting") or {}).get("reason", ""))

    def reasons(self) -> list[str]:
        """Return the reasons of the Events, in order."""
        found = sorted(self.api.objects(EVENTS).values(), key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [event["reason"] for event in found]


@contextlib.asynccontextmanager
async def rig(
    api: FakeApi,
    runtime: Runtime,
    clock: Clock,
    folder: Path,
    *,
    cgroup: str = "/test",
    allocatable: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """Keep the pods of `node-1` until the block ends; they run on after that."""
    holder: list[Roster] = []
    references = References(api, lambda uids: holder[0].objects_changed(uids), clock)
    informers = Informers(api, [Query(PODS, field_selector="spec.nodeName=node-1"), Query(SERVICES)], clock=clock)
    services = Services(
        node=NodeFacts("node-1", ("127.0.0.1",), cgroup, folder / "pods", allocatable=allocatable),
        api=api,
        runtime=runtime,
        volumes=Volumes(folder / "pods", references),
        references=references,
        checks=Checks(runtime),
        recorder=Recorder(api, "kubelet", clock, host="node-1"),
        clock=clock,
        service_objects=lambda: tuple(informers.store(SERVICES).values()),
    )
    roster = Roster(services, informers)
    holder.append(roster)
    async with references.opened(), services.checks.opened(), asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in (services.recorder.run(), informers.run(), roster.run())]
        yield Rig(api, roster, services)
        for task in tasks:
            task.cancel()
