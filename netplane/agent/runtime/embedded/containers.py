"""Make, start, end and remove containers, and learn how they ended, also when the agent was not there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import platform
import shutil
import signal
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from netplane.agent.runtime.embedded import bundle, crun, processes, records, rootfs, seccomp
from netplane.agent.runtime.embedded.bundle import Host, Place
from netplane.agent.runtime.embedded.crun import Programs
from netplane.agent.runtime.embedded.layout import Layout
from netplane.agent.runtime.embedded.records import ContainerRecord, Process
from netplane.agent.runtime.embedded.sandboxes import Sandboxes
from netplane.agent.runtime.protocol import ContainerConfig, Resources, RuntimeFailure
from netplane.kernel import cgroup
from netplane.kernel.errors import KernelError
from netplane.lib.clock import Clock, rfc3339_micro

SETTLE = 5.0
"""How long a killed container may take to be gone and accounted for."""
LOST = 137
"""The exit code of a container whose own one nobody saw, as kubelet has it."""
START_ERROR = 128


class UnpackedImage(Protocol):
    """An image of the node's store, ready to be mounted."""

    @property
    def reference(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def config(self) -> dict[str, object]: ...
    @property
    def layers(self) -> Sequence[Path]:
        """The folders of its layers, the lowest first."""
        ...


@dataclass(slots=True)
class Containers:
    """The containers of this node by id. `changed` is called with a pod UID when one ends."""

    layout: Layout
    programs: Programs
    sandboxes: Sandboxes
    host: Host
    clock: Clock
    changed: Callable[[str], None]
    by_id: dict[str, ContainerRecord] = field(default_factory=dict)
    _watched: dict[str, Callable[[], None]] = field(default_factory=dict)
    _ended: dict[str, asyncio.Event] = field(default_factory=dict)

    async def create(self, sandbox_id: str, config: ContainerConfig, image: UnpackedImage) -> str:
        """Prepare a container; nothing runs yet. After a failure nothing of it is left. Raises RuntimeFailure."""
        sandbox = self.sandboxes.by_id.get(sandbox_id)
        if sandbox is None or sandbox.stopped:
            raise RuntimeFailure(f"sandbox {sandbox_id[:12]} is not ready")
        container_id = uuid.uuid4().hex + uuid.uuid4().hex
        said = bundle.image_config(image.config)
        record = ContainerRecord(
            id=container_id,
            sandbox_id=sandbox_id,
            uid=sandbox.uid,
            name=config.name,
            attempt=config.attempt,
            state="created",
            created_at=rfc3339_micro(self.clock.now()),
            image=image.reference,
            image_ref=image.digest,
            log_file=str(Path(sandbox.log_directory) / config.log_path),
            log_path=config.log_path,
            cgroup=f"{sandbox.cgroup_parent}/{container_id}",
            stop_signal=said.stop_signal or "SIGTERM",
            tty=config.tty,
            stdin=config.stdin,
            stdin_once=config.stdin_once,
            labels=dict(config.labels),
            annotations=dict(config.annotations),
        )
        try:
            await asyncio.to_thread(self._prepare, record, config, said, tuple(image.layers), sandbox.hostname)
        except BaseException:
            await asyncio.to_thread(self._discard, record)
            raise
        self._keep(record)
        return container_id

    async def start(self, container_id: str) -> None:
        """Run a container that was made. When that fails it counts as ended with code 128. Raises RuntimeFailure."""
        record = self.by_id[container_id]
        Path(record.log_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            made = await crun.create(
                self.programs,
                record.id,
                bundle=self.layout.bundle(record.id),
                exits=self.layout.exits,
                log=Path(record.log_file),
                terminal=record.tty,
                stdin=record.stdin,
                keep_stdin=record.stdin and not record.stdin_once,
            )
            record = dataclasses.replace(
                record, process=processes.identify(made.pid), monitor=processes.identify(made.monitor)
            )
            self._keep(record)
            self._adopt_monitor(record)
            await crun.start(self.programs, record.id)
        except RuntimeFailure as error:
            await self._failed_to_start(record, str(error))
            raise
        record = dataclasses.replace(record, state="running", started_at=rfc3339_micro(self.clock.now()))
        self._keep(record)
        self._watch(record)

    async def stop(self, container_id: str, grace: float) -> None:
        """End a container: its stop signal, and after `grace` seconds SIGKILL. Returns when it is gone."""
        record = self.by_id.get(container_id)
        if record is None or record.state == "exited":
            return
        if record.state == "created":
            await self._failed_to_start(record, "stopped before it was started")
            return
        ended = self._ended.setdefault(container_id, asyncio.Event())
        if grace > 0 and processes.send(record.process, _signal(record.stop_signal)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await ended.wait()
                    return
        processes.send(record.process, signal.SIGKILL)
        with contextlib.suppress(KernelError):
            await asyncio.to_thread(cgroup.kill, record.cgroup.lstrip("/"), limit=SETTLE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                await ended.wait()
                return
        await self._finish(container_id)

    async def update(self, container_id: str, resources: Resources) -> None:
        """Change the limits of a container that runs. Raises RuntimeFailure with the kernel's reason."""
        wanted = bundle.resources(resources, self.host)
        wanted.pop("devices", None)
        file = self.layout.bundle(container_id) / "resources.json"
        file.write_text(json.dumps(wanted))
        await crun.update(self.programs, container_id, file)

    async def remove(self, container_id: str) -> None:
        """Forget a container, ending it first, with all that it wrote but its log."""
        record = self.by_id.get(container_id)
        if record is None:
            return
        await self.stop(container_id, 0)
        await crun.delete_if_present(self.programs, container_id)
        await asyncio.to_thread(self._discard, record)
        del self.by_id[container_id]
        self._ended.pop(container_id, None)

    async def load(self) -> None:
        """Take over the containers that an earlier agent made, and learn how those ended that did meanwhile."""
        self.layout.exits.mkdir(parents=True, exist_ok=True)
        self.by_id = records.read_all(self.layout.containers, ContainerRecord)
        for record in tuple(self.by_id.values()):
            if record.state == "created":
                # Whether its program was let run is not known: the agent died right then.
                await crun.delete_if_present(self.programs, record.id)
                await asyncio.to_thread(self._discard, record)
                del self.by_id[record.id]
            elif record.state == "running":
                self._watch(record)
        await asyncio.to_thread(self._sweep)

    def close(self) -> None:
        """Stop watching; everything goes on running."""
        for stop in self._watched.values():
            stop()
        self._watched.clear()

    def _prepare(
        self,
        record: ContainerRecord,
        config: ContainerConfig,
        said: bundle.ImageConfig,
        layers: Sequence[Path],
        hostname: str,
    ) -> None:
        folder = self.layout.bundle(record.id)
        folder.mkdir(parents=True, exist_ok=True)
        root = folder / "rootfs"
        rootfs.make(root, layers, self.layout.container(record.id))
        user = rootfs.user_of(root, said.user, config.security)
        if not bundle.argv(config, said):
            raise RuntimeFailure("no command specified")
        place = Place(
            rootfs=str(root),
            cgroup=record.cgroup,
            hostname=hostname,
            namespaces=self._namespaces(record.sandbox_id, config.target),
            files=self.sandboxes.files(record.sandbox_id),
            seccomp=seccomp.wanted(
                config.security, bundle.capabilities(config.security, self.host), platform.machine()
            ),
        )
        (folder / "config.json").write_text(json.dumps(bundle.container(config, said, user, place, self.host)))

    def _namespaces(self, sandbox_id: str, target: str) -> dict[str, str]:
        joined = self.sandboxes.namespaces(sandbox_id)
        if target:
            process = self.by_id[target].process if target in self.by_id else Process()
            if not processes.is_alive(process):
                raise RuntimeFailure(f"the container {target[:12]} whose processes it is to see is not running")
            joined["pid"] = f"/proc/{process.pid}/ns/pid"
        return joined

    def _discard(self, record: ContainerRecord) -> None:
        rootfs.remove_if_present(self.layout.bundle(record.id) / "rootfs")
        shutil.rmtree(self.layout.bundle(record.id), ignore_errors=True)
        shutil.rmtree(self.layout.container(record.id), ignore_errors=True)
        (self.layout.exits / record.id).unlink(missing_ok=True)

    def _sweep(self) -> None:
        known = self.by_id.keys() | self.sandboxes.by_id.keys()
        for parent in (self.layout.containers, self.layout.run / "bundles"):
            for folder in parent.iterdir() if parent.is_dir() else ():
                if folder.name not in known:
                    rootfs.remove_if_present(folder / "rootfs")
                    shutil.rmtree(folder, ignore_errors=True)

    def _adopt_monitor(self, record: ContainerRecord) -> None:
        # Into the pod's cgroup: whoever ends the agent's own cgroup must not end the pods' logs with it.
        group = f"{record.cgroup.rpartition('/')[0].lstrip('/')}/monitors"
        with contextlib.suppress(KernelError, OSError):
            cgroup.ensure(group)
            cgroup.add(group, record.monitor.pid)

    async def _failed_to_start(self, record: ContainerRecord, why: str) -> None:
        await crun.delete_if_present(self.programs, record.id)
        rootfs.remove_if_present(self.layout.bundle(record.id) / "rootfs")
        now = rfc3339_micro(self.clock.now())
        self._keep(
            dataclasses.replace(
                record,
                state="exited",
                finished_at=now,
                exit_code=START_ERROR,
                reason="StartError",
                message=why,
            )
        )

    def _watch(self, record: ContainerRecord) -> None:
        # conmon ends after it has written everything down. Should it be gone, the container itself is watched.
        who = record.monitor if processes.is_alive(record.monitor) else record.process
        self._ended.setdefault(record.id, asyncio.Event())
        self._watched[record.id] = processes.on_exit(who, lambda: self._on_exit(record.id))

    def _on_exit(self, container_id: str) -> None:
        self._watched.pop(container_id, None)
        record = self.by_id.get(container_id)
        if record is None or record.state != "running":
            return
        if not self._exit_file(container_id).exists() and processes.is_alive(record.process):
            self._watch(record)
            return
        self._note_end(record)

    def _note_end(self, record: ContainerRecord) -> None:
        code, when = self._exit_of(record.id)
        killed_for_memory = (self.layout.bundle(record.id) / "oom").exists()
        reason = "OOMKilled" if killed_for_memory else "Completed" if code == 0 else "Error"
        message = ""
        if code is None:
            reason, message = "ContainerStatusUnknown", "The container could not be located when the pod was terminated"
        self._keep(
            dataclasses.replace(
                record,
                state="exited",
                finished_at=rfc3339_micro(when),
                exit_code=LOST if code is None else code,
                reason=reason,
                message=message,
            )
        )
        self._ended.setdefault(record.id, asyncio.Event()).set()
        self.changed(record.uid)

    async def _finish(self, container_id: str) -> None:
        record = self.by_id.get(container_id)
        if record is not None and record.state == "running":
            self._note_end(record)

    def _exit_file(self, container_id: str) -> Path:
        return self.layout.exits / container_id

    def _exit_of(self, container_id: str) -> tuple[int | None, datetime]:
        path = self._exit_file(container_id)
        try:
            code = int(path.read_text())
            return code, datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except (OSError, ValueError):
            return None, self.clock.now()

    def _keep(self, record: ContainerRecord) -> None:
        self.by_id[record.id] = record
        records.write(self.layout.container(record.id), record)


def _signal(name: str) -> int:
    if name.isdigit():
        return int(name)
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    return int(getattr(signal, full, signal.SIGTERM))
