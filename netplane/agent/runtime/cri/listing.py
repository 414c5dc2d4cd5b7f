"""Keep what a CRI runtime runs in memory, and tell when it changes: by listing it, and by its events where it has them.

While the runtime does not answer, what was known last stays: what it ran runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from cri_api.v1 import api_pb2 as cri

from netplane.agent.runtime.cri import messages
from netplane.agent.runtime.cri.connection import Connection, NotOffered, NotThere
from netplane.agent.runtime.protocol import ContainerStatus, ImageStatus, RuntimeFailure, SandboxStatus, Usage
from netplane.lib import log

_log = log.get("agent.runtime")

PERIOD = 1.0
"""Seconds between two lists, as the kubelet's PLEG has it."""
EVENTFUL_PERIOD = 10.0
"""The same with a runtime that tells of changes by itself."""
STATS_EVERY = 5
IMAGES_EVERY = 30
AT_ONCE = 16


@dataclass(slots=True)
class Listing:
    """The sandboxes and containers of pods, by id. `changed` is called with the UID of a pod that changed."""

    connection: Connection
    changed: Callable[[str], None]
    sandboxes: dict[str, SandboxStatus] = field(default_factory=dict)
    containers: dict[str, ContainerStatus] = field(default_factory=dict)
    images: dict[str, ImageStatus] = field(default_factory=dict)
    usages: dict[str, Usage] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _period: float = PERIOD
    _answers: bool = True

    async def refresh(self) -> None:
        """List everything once, and ask for more about what changed. Raises RuntimeFailure."""
        listed = (await self.connection.runtime("ListPodSandbox", cri.ListPodSandboxRequest())).items
        found = {one.id: one.state for one in listed}
        await self._each(
            self.refresh_sandbox,
            [key for key, state in found.items() if not self._is_known_sandbox(key, state)],
        )
        self._forget_sandboxes(set(self.sandboxes) - set(found))
        running = (await self.connection.runtime("ListContainers", cri.ListContainersRequest())).containers
        ours = {one.id: one for one in running if one.pod_sandbox_id in self.sandboxes}
        await self._each(
            lambda key: self.refresh_container(key, ours[key].pod_sandbox_id),
            [key for key, one in ours.items() if not self._is_known_container(key, one.state)],
        )
        for key in set(self.containers) - set(ours):
            self.forget_container(key)

    async def refresh_sandbox(self, sandbox_id: str) -> None:
        """Ask for one sandbox. Raises RuntimeFailure."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        try:
            answer = await self.connection.runtime("PodSandboxStatus", request)
        except NotThere:
            self._forget_sandboxes((sandbox_id,))
            return
        status = messages.sandbox_status(answer.status)
        if self.sandboxes.get(sandbox_id) != status:
            self.sandboxes[sandbox_id] = status
            self.changed(status.uid)

    async def refresh_container(self, container_id: str, sandbox_id: str = "") -> None:
        """Ask for one container. Raises RuntimeFailure."""
        request = cri.ContainerStatusRequest(container_id=container_id)
        try:
            answer = await self.connection.runtime("ContainerStatus", request)
        except NotThere:
            self.forget_container(container_id)
            return
        known = self.containers.get(container_id)
        status = messages.container_status(answer.status, sandbox_id or (known.sandbox_id if known else ""))
        if known != status:
            self.containers[container_id] = status
            self.changed(self.pod_of(status))

    def forget_container(self, container_id: str) -> None:
        """Take a container out."""
        self.usages.pop(container_id, None)
        if status := self.containers.pop(container_id, None):
            self.changed(self.pod_of(status))

    def pod_of(self, status: ContainerStatus) -> str:
        """Return the UID of a container's pod, "" when its sandbox is gone."""
        sandbox = self.sandboxes.get(status.sandbox_id)
        return sandbox.uid if sandbox else ""

    async def refresh_images(self) -> None:
        """List the images. Raises RuntimeFailure."""
        answer = await self.connection.images("ListImages", cri.ListImagesRequest())
        self.images = messages.images_by_name(answer.images)

    async def refresh_usages(self) -> None:
        """Ask what all containers use. Raises RuntimeFailure."""
        answer = await self.connection.runtime("ListContainerStats", cri.ListContainerStatsRequest())
        self.usages = {one.attributes.id: messages.usage(one) for one in answer.stats}

    async def run(self) -> None:
        """List again and again until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(self._period)
            turn += 1
            try:
                await self.refresh()
                if turn % STATS_EVERY == 0:
                    await self.refresh_usages()
                if turn % IMAGES_EVERY == 0:
                    await self.refresh_images()
            except RuntimeFailure as error:
                self._tell(error)
            else:
                self._tell(None)

    async def follow(self) -> None:
        """List a container as soon as the runtime tells that it changed; return when it does not tell."""
        while True:
            try:
                async for event in self.connection.events():
                    self._period = EVENTFUL_PERIOD
                    with contextlib.suppress(RuntimeFailure):
                        await self.refresh_container(event.container_id, event.pod_sandbox_status.id)
            except NotOffered:
                return
            except RuntimeFailure:
                self._period = PERIOD
            await asyncio.sleep(PERIOD)

    def _tell(self, error: RuntimeFailure | None) -> None:
        if error is not None and self._answers:
            _log.warning("the container runtime does not answer; its pods run on", error=str(error))
        elif error is None and not self._answers:
            _log.info("the container runtime answers again")
        self._answers = error is None

    def _is_known_sandbox(self, sandbox_id: str, state: int) -> bool:
        known = self.sandboxes.get(sandbox_id)
        return known is not None and (known.state == "ready") == (state == cri.SANDBOX_READY)

    def _is_known_container(self, container_id: str, state: int) -> bool:
        known = self.containers.get(container_id)
        return known is not None and known.state == messages.STATES[state]

    def _forget_sandboxes(self, gone: Iterable[str]) -> None:
        for key in gone:
            if status := self.sandboxes.pop(key, None):
                self.changed(status.uid)

    async def _each(self, do: Callable[[str], Awaitable[None]], keys: Iterable[str]) -> None:
        async def one(key: str) -> None:
            async with self._slots:
                await do(key)

        for done in await asyncio.gather(*(one(key) for key in keys), return_exceptions=True):
            if isinstance(done, BaseException):
                raise done
