"""Put the embedded runtime's parts together behind the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from netplane.agent.runtime.cni.run import Plugins
from netplane.agent.runtime.embedded import bundle, machine, streams, usage
from netplane.agent.runtime.embedded.bundle import Host
from netplane.agent.runtime.embedded.containers import Containers, UnpackedImage
from netplane.agent.runtime.embedded.crun import Programs
from netplane.agent.runtime.embedded.layout import Layout
from netplane.agent.runtime.embedded.records import ContainerRecord
from netplane.agent.runtime.embedded.sandboxes import Sandboxes
from netplane.agent.runtime.protocol import (
    Completed,
    Condition,
    ContainerConfig,
    ContainerStatus,
    ImageMissing,
    ImageStatus,
    Pipe,
    Resources,
    RuntimeFailure,
    RuntimeStatus,
    SandboxConfig,
    SandboxStatus,
    Stream,
    Usage,
)
from netplane.lib.clock import Clock

KEPT_OUTPUT = 1 << 14


class Images(Protocol):
    """The node's image store."""

    def find(self, reference: str) -> UnpackedImage | None:
        """Return the image that a reference means, None when the node does not have it."""
        ...

    def list(self) -> Sequence[UnpackedImage]:
        """Return all images."""
        ...


class Embedded:
    """A runtime of crun, conmon and files."""

    name = "netplane"

    def __init__(
        self,
        layout: Layout,
        programs: Programs,
        *,
        plugins: Plugins,
        images: Images,
        host: Host,
        clock: Clock,
        version: str = "0.1.0",
    ) -> None:
        self.version = version
        self._layout = layout
        self._programs = programs
        self._plugins = plugins
        self._images = images
        self._changes: asyncio.Queue[str] = asyncio.Queue()
        self._sandboxes = Sandboxes(layout, programs, plugins, host, clock, self._changes.put_nowait)
        self._containers = Containers(layout, programs, self._sandboxes, host, clock, self._changes.put_nowait)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Embedded]:
        """Adopt what runs already; leaving lets everything run on."""
        await self._sandboxes.load()
        await self._containers.load()
        try:
            yield self
        finally:
            self._containers.close()
            self._sandboxes.close()

    async def status(self) -> RuntimeStatus:
        """Return whether pods can be run: the network is ready when there is a CNI configuration."""
        network = self._plugins.configured()
        if network is None:
            missing = Condition(
                False, "NetworkPluginNotReady", "Network plugin returns error: cni plugin not initialized"
            )
            return RuntimeStatus(Condition(True), missing)
        return RuntimeStatus(Condition(True), Condition(True))

    async def run_sandbox(self, config: SandboxConfig) -> str:
        """Make a sandbox with its network."""
        return await self._sandboxes.run(config)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """End all that runs in a sandbox, then the sandbox."""
        for record in self._of_sandbox(sandbox_id):
            await self._containers.stop(record.id, 0)
        await self._sandboxes.stop(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox and its containers."""
        for record in self._of_sandbox(sandbox_id):
            await self._containers.remove(record.id)
        await self._sandboxes.remove(sandbox_id)

    def sandboxes(self, uid: str = "") -> Sequence[SandboxStatus]:
        """Return a pod's sandboxes, or all, the newest first."""
        found = [record.status() for record in self._sandboxes.by_id.values() if uid in ("", record.uid)]
        return sorted(found, key=lambda status: (status.attempt, status.created_at), reverse=True)

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container from an image of the store. Raises ImageMissing."""
        return await self._containers.create(sandbox_id, config, self._image(config.image))

    async def start_container(self, container_id: str) -> None:
        """Run it."""
        await self._containers.start(container_id)

    async def stop_container(self, container_id: str, grace: float) -> None:
        """End it, with `grace` seconds to do so by itself."""
        await self._containers.stop(container_id, grace)

    async def update_container(self, container_id: str, resources: Resources) -> None:
        """Change the limits of a running container."""
        self._running(container_id)
        await self._containers.update(container_id, resources)

    async def remove_container(self, container_id: str) -> None:
        """Forget it."""
        await self._containers.remove(container_id)

    def containers(self, uid: str = "") -> Sequence[ContainerStatus]:
        """Return a pod's containers, or all, the newest attempt of each first."""
        found = [record.status() for record in self._containers.by_id.values() if uid in ("", record.uid)]
        return sorted(found, key=lambda status: (status.attempt, status.created_at), reverse=True)

    async def exec_sync(self, container_id: str, argv: Sequence[str], limit: float) -> Completed:
        """Run a command to its end, keeping the first 16 KiB of what it prints."""
        stream = await self.exec(container_id, argv, tty=False, stdin=False)
        kept = bytearray()

        async def sink(_: Pipe, data: bytes) -> None:
            kept.extend(data[: KEPT_OUTPUT - len(kept)])

        try:
            async with asyncio.timeout(limit or None):
                await stream.forward(sink)
                return Completed(await stream.wait() or 0, bytes(kept))
        except TimeoutError:
            return Completed(-1, bytes(kept), timed_out=True)
        finally:
            await stream.close()

    async def exec(self, container_id: str, argv: Sequence[str], *, tty: bool, stdin: bool) -> Stream:
        """Start a command in a running container, as the user and with the environment of its own process."""
        record = self._running(container_id)
        folder = self._layout.bundle(container_id)
        process = json.loads((folder / "config.json").read_text())["process"]
        process |= {"args": list(argv), "terminal": tty}
        if tty and not any(entry.startswith("TERM=") for entry in process["env"]):
            process["env"].append("TERM=xterm")
        # crun reads it once, right after it has started; the folder goes with the container.
        spec = folder / f"exec-{os.urandom(4).hex()}.json"
        spec.write_text(json.dumps(process))
        words = [f"--process={spec}", f"--pid-file={spec.with_suffix('.pid')}", record.id]
        if tty:
            argv = self._programs.argv("exec", "--tty", "--console-socket={console}", *words)
            return await streams.spawn_on_terminal(argv, self._layout.run, spec)
        return await streams.spawn(self._programs.argv("exec", *words), spec, stdin=stdin)

    async def attach(self, container_id: str, *, stdin: bool) -> Stream:
        """Attach to a container's own process."""
        record = self._running(container_id)
        return await streams.connect(self._layout.bundle(container_id), tty=record.tty)

    async def connect(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port on the sandbox's loopback, over IPv4, else IPv6."""
        record = self._sandboxes.by_id.get(sandbox_id)
        if record is None or record.stopped:
            raise RuntimeFailure("the pod's sandbox is not running")
        return await machine.connect_within(record.netns, port)

    async def reopen_log(self, container_id: str) -> None:
        """Let conmon open the log file anew, after it was renamed."""
        streams.command(self._layout.bundle(container_id) / "ctl", "2 0 0\n")

    def log_file(self, container_id: str) -> Path:
        """Return where a container's log is."""
        return Path(self._containers.by_id[container_id].log_file)

    def usage(self, container_id: str) -> Usage:
        """Return what a container uses now."""
        record = self._containers.by_id.get(container_id)
        return usage.read(record.cgroup) if record else Usage()

    def image(self, reference: str) -> ImageStatus | None:
        """Return what the store knows of an image."""
        found = self._images.find(reference)
        return _image_status(found) if found else None

    def list_images(self) -> Sequence[ImageStatus]:
        """Return all images of the store."""
        return tuple(_image_status(image) for image in self._images.list())

    async def pull(self, reference: str) -> ImageStatus:
        """Look for the image in the store once more: nothing is fetched from elsewhere. Raises ImageMissing."""
        return _image_status(self._image(reference))

    async def changes(self) -> AsyncIterator[str]:
        """Yield the UID of each pod in which something ended."""
        while True:
            yield await self._changes.get()

    def _of_sandbox(self, sandbox_id: str) -> list[ContainerRecord]:
        return [record for record in self._containers.by_id.values() if record.sandbox_id == sandbox_id]

    def _running(self, container_id: str) -> ContainerRecord:
        record = self._containers.by_id.get(container_id)
        if record is None or record.state != "running":
            raise RuntimeFailure(f"container {container_id[:12]} is not running")
        return record

    def _image(self, reference: str) -> UnpackedImage:
        image = self._images.find(reference)
        if image is None:
            raise ImageMissing(
                f'failed to resolve reference "{reference}": not found in the node\'s image store'
                " (netplane image import puts it there)"
            )
        return image


def programs(layout: Layout) -> Programs:
    """Find crun and conmon. Raises RuntimeFailure naming the package that is missing."""
    found = {name: shutil.which(name) for name in ("crun", "conmon")}
    for name, path in found.items():
        if path is None:
            raise RuntimeFailure(f"{name} is not installed: apt-get install {name}")
    return Programs(str(found["crun"]), str(found["conmon"]), layout.crun)


def _image_status(image: UnpackedImage) -> ImageStatus:
    user = bundle.image_config(image.config).user.partition(":")[0]
    uid = int(user) if user.isdigit() else None if user else 0
    return ImageStatus(image.reference, image.digest, image.size, uid=uid, username="" if user.isdigit() else user)
