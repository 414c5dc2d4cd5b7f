"""Put the parts together behind the agent's protocol: a runtime that is asked through CRI v1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from cri_api.v1 import api_pb2 as cri

from netplane.agent.runtime.cri import leftovers, messages, streaming
from netplane.agent.runtime.cri.connection import LIMIT, Connection, NotThere, TimedOut, Unavailable
from netplane.agent.runtime.cri.imports import Imports
from netplane.agent.runtime.cri.listing import Listing
from netplane.agent.runtime.embedded.machine import connect_within
from netplane.agent.runtime.protocol import (
    Completed,
    Condition,
    ContainerConfig,
    ContainerStatus,
    ImageMissing,
    ImageStatus,
    Resources,
    RuntimeFailure,
    RuntimeStatus,
    SandboxConfig,
    SandboxStatus,
    Stream,
    Usage,
)
from netplane.kernel import cgroup
from netplane.lib import clock, log

_log = log.get("agent.runtime")

KEPT_OUTPUT = 1 << 14
START_TRIES, START_PAUSE = 60, 0.25


class Cri:
    """A runtime behind a socket."""

    name = ""
    version = ""

    def __init__(self, endpoint: str, imports: Imports) -> None:
        self._connection = Connection(endpoint)
        self._imports = imports
        self._changes: asyncio.Queue[str] = asyncio.Queue()
        self._listing = Listing(self._connection, self._changes.put_nowait)
        self._configs: dict[str, cri.PodSandboxConfig] = {}

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Cri]:
        """Adopt what runs already; leaving lets everything run on. Raises RuntimeFailure when nothing answers."""
        async with self._connection:
            said = await self._first_word()
            self.name, self.version = said.runtime_name, said.runtime_version
            if removed := await asyncio.to_thread(leftovers.sweep, leftovers.CACHE, clock.SYSTEM.now().timestamp()):
                _log.warning("results of CNI that cannot be read were removed", files=", ".join(removed))
            await self._listing.refresh()
            await self._listing.refresh_images()
            await self._bring_sandbox_image()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._listing.run()), group.create_task(self._listing.follow())]
                try:
                    yield self
                finally:
                    for task in tasks:
                        task.cancel()

    async def status(self) -> RuntimeStatus:
        """Return whether pods can be run; a runtime that does not answer is not ready."""
        try:
            answer = await self._connection.runtime("Status", cri.StatusRequest(), 10.0)
        except RuntimeFailure as error:
            silent = Condition(False, "ContainerRuntimeNotReady", str(error))
            return RuntimeStatus(silent, silent)
        return messages.runtime_status(answer.status)

    async def run_sandbox(self, config: SandboxConfig) -> str:
        """Make a sandbox with its network."""
        config.log_directory.mkdir(parents=True, exist_ok=True)
        message = messages.sandbox_config(config)
        answer = await self._connection.runtime("RunPodSandbox", cri.RunPodSandboxRequest(config=message))
        sandbox_id = str(answer.pod_sandbox_id)
        self._configs[sandbox_id] = message
        await self._listing.refresh_sandbox(sandbox_id)
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """End all that runs in a sandbox, then the sandbox."""
        with contextlib.suppress(NotThere):
            await self._connection.runtime("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        for status in self._of_sandbox(sandbox_id):
            await self._listing.refresh_container(status.id)
        await self._listing.refresh_sandbox(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox and its containers, and take its cgroup away."""
        for status in self._of_sandbox(sandbox_id):
            await self.remove_container(status.id)
        await self.stop_sandbox(sandbox_id)
        with contextlib.suppress(NotThere):
            await self._connection.runtime("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
        await self._listing.refresh_sandbox(sandbox_id)
        config = self._configs.pop(sandbox_id, None)
        if config is not None and config.linux.cgroup_parent:
            await asyncio.to_thread(cgroup.remove_if_present, config.linux.cgroup_parent.strip("/"))

    def sandboxes(self, uid: str = "") -> Sequence[SandboxStatus]:
        """Return a pod's sandboxes, or all, the newest first."""
        found = [status for status in self._listing.sandboxes.values() if uid in ("", status.uid)]
        return sorted(found, key=lambda status: (status.attempt, status.created_at), reverse=True)

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container from an image that the runtime has. Raises ImageMissing."""
        place = await self._config(sandbox_id)
        options = place.linux.security_context.namespace_options
        message = messages.container_config(config, options, unified_cgroups=cgroup.is_unified())
        image = self.image(config.image) or await self.pull(config.image)
        message.image.image = image.digest
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=message, sandbox_config=place)
        (Path(place.log_directory) / config.log_path).parent.mkdir(parents=True, exist_ok=True)
        container_id = str((await self._connection.runtime("CreateContainer", request)).container_id)
        await self._listing.refresh_container(container_id, sandbox_id)
        return container_id

    async def start_container(self, container_id: str) -> None:
        """Run it."""
        try:
            await self._connection.runtime("StartContainer", cri.StartContainerRequest(container_id=container_id))
        finally:
            with contextlib.suppress(RuntimeFailure):
                await self._listing.refresh_container(container_id)

    async def stop_container(self, container_id: str, grace: float) -> None:
        """End it, with `grace` seconds, rounded up, to do so by itself."""
        seconds = math.ceil(grace)
        request = cri.StopContainerRequest(container_id=container_id, timeout=seconds)
        with contextlib.suppress(NotThere):
            await self._connection.runtime("StopContainer", request, LIMIT + seconds)
        await self._listing.refresh_container(container_id)
        status = self._listing.containers.get(container_id)
        if status is not None and status.state == "created":
            # It never ran, or the runtime lost with the machine's power that it did. Runtimes stop only what runs.
            await self.remove_container(container_id)

    async def update_container(self, container_id: str, resources: Resources) -> None:
        """Change the limits of a running container."""
        message = messages.resources(resources, unified_cgroups=cgroup.is_unified())
        request = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=message)
        await self._connection.runtime("UpdateContainerResources", request)

    async def remove_container(self, container_id: str) -> None:
        """Forget it."""
        with contextlib.suppress(NotThere):
            await self._connection.runtime("RemoveContainer", cri.RemoveContainerRequest(container_id=container_id))
        self._listing.forget_container(container_id)

    def containers(self, uid: str = "") -> Sequence[ContainerStatus]:
        """Return a pod's containers, or all, the newest attempt of each first."""
        known = self._listing.containers.values()
        found = [status for status in known if uid in ("", self._listing.pod_of(status))]
        return sorted(found, key=lambda status: (status.attempt, status.created_at), reverse=True)

    async def exec_sync(self, container_id: str, argv: Sequence[str], limit: float) -> Completed:
        """Run a command to its end, keeping the first 16 KiB of what it prints."""
        seconds = math.ceil(limit)
        request = cri.ExecSyncRequest(container_id=container_id, cmd=argv, timeout=seconds)
        try:
            async with asyncio.timeout(limit or None):
                answer = await self._connection.runtime("ExecSync", request, LIMIT + seconds)
        except (TimeoutError, TimedOut):
            return Completed(-1, b"", timed_out=True)
        return Completed(answer.exit_code, (answer.stdout + answer.stderr)[:KEPT_OUTPUT])

    async def exec(self, container_id: str, argv: Sequence[str], *, tty: bool, stdin: bool) -> Stream:
        """Start a command in a running container."""
        request = cri.ExecRequest(
            container_id=container_id, cmd=argv, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        answer = await self._connection.runtime("Exec", request)
        return await streaming.connect(answer.url, stdin=stdin, tty=tty, is_attached=False)

    async def attach(self, container_id: str, *, stdin: bool) -> Stream:
        """Attach to a container's own process."""
        tty = await self._has_terminal(container_id)
        request = cri.AttachRequest(container_id=container_id, stdin=stdin, tty=tty, stdout=True, stderr=not tty)
        answer = await self._connection.runtime("Attach", request)
        return await streaming.connect(answer.url, stdin=stdin, tty=tty, is_attached=True)

    async def connect(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port on the sandbox's loopback, through the network namespace of its first process."""
        info = await self._info(sandbox_id)
        if not (pid := info.get("pid")):
            raise RuntimeFailure("the pod's sandbox is not running")
        return await connect_within(f"/proc/{pid}/ns/net", port)

    async def reopen_log(self, container_id: str) -> None:
        """Let the runtime open the log file anew, after it was renamed."""
        request = cri.ReopenContainerLogRequest(container_id=container_id)
        await self._connection.runtime("ReopenContainerLog", request)

    def log_file(self, container_id: str) -> Path:
        """Return where a container's log is."""
        return messages.log_file(self._listing.containers[container_id])

    def usage(self, container_id: str) -> Usage:
        """Return what a container used when the runtime was asked last, up to 5 seconds ago."""
        return self._listing.usages.get(container_id, Usage())

    def image(self, reference: str) -> ImageStatus | None:
        """Return what is known of an image."""
        return self._listing.images.get(messages.full_name(reference))

    def list_images(self) -> Sequence[ImageStatus]:
        """Return all images of the runtime."""
        return tuple({status.digest: status for status in self._listing.images.values()}.values())

    async def pull(self, reference: str) -> ImageStatus:
        """Look at the runtime, then at the node's own store, then let the runtime fetch it. Raises ImageMissing."""
        full = messages.full_name(reference)
        spec = cri.ImageSpec(image=full)
        found = await self._connection.images("ImageStatus", cri.ImageStatusRequest(image=spec))
        if not found.image.id and not await self._imports.bring(full):
            try:
                await self._connection.images("PullImage", cri.PullImageRequest(image=spec))
            except Unavailable:
                raise
            except RuntimeFailure as error:
                raise ImageMissing(str(error)) from error
        await self._listing.refresh_images()
        if status := self.image(reference):
            return status
        raise ImageMissing(f'the runtime has no image "{full}" after it was asked for')

    async def changes(self) -> AsyncIterator[str]:
        """Yield the UID of each pod in which something changed."""
        while True:
            yield await self._changes.get()

    async def _first_word(self) -> Any:
        """Ask for the version, again while the runtime still starts. Raises RuntimeFailure."""
        for _ in range(START_TRIES):
            try:
                return await self._connection.runtime("Version", cri.VersionRequest(), 10.0)
            except Unavailable as error:
                failure = error
                await asyncio.sleep(START_PAUSE)
        raise failure

    async def _bring_sandbox_image(self) -> None:
        """A sandbox image that the node's own store has is imported before the runtime asks a registry for it."""
        answer = await self._connection.runtime("Status", cri.StatusRequest(verbose=True), 10.0)
        configured = json.loads(answer.info.get("config", "{}")).get("sandboxImage", "")
        if configured and self.image(configured) is None and await self._imports.bring(configured):
            await self._listing.refresh_images()

    def _of_sandbox(self, sandbox_id: str) -> list[ContainerStatus]:
        return [status for status in self._listing.containers.values() if status.sandbox_id == sandbox_id]

    async def _config(self, sandbox_id: str) -> cri.PodSandboxConfig:
        if sandbox_id not in self._configs:  # made by an agent before this one
            info = await self._info(sandbox_id)
            self._configs[sandbox_id] = messages.parsed_config(info.get("config") or {})
        return self._configs[sandbox_id]

    async def _info(self, sandbox_id: str) -> dict[str, Any]:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        answer = await self._connection.runtime("PodSandboxStatus", request)
        content: dict[str, Any] = json.loads(answer.info.get("info", "{}"))
        return content

    async def _has_terminal(self, container_id: str) -> bool:
        request = cri.ContainerStatusRequest(container_id=container_id, verbose=True)
        answer = await self._connection.runtime("ContainerStatus", request)
        info = json.loads(answer.info.get("info", "{}"))
        return bool((info.get("config") or {}).get("tty"))
