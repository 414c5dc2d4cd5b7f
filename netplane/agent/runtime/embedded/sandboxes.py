"""Make and end sandboxes: a network namespace, its CNI attachment, and a pause process that holds the rest."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import shutil
import socket
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from netplane.agent.runtime.cni.plan import Attachment, CniError
from netplane.agent.runtime.cni.run import Plugins
from netplane.agent.runtime.embedded import bundle, crun, mounts, pause, processes, records
from netplane.agent.runtime.embedded.bundle import Host
from netplane.agent.runtime.embedded.crun import Programs
from netplane.agent.runtime.embedded.layout import Layout
from netplane.agent.runtime.embedded.records import Process, SandboxRecord
from netplane.agent.runtime.protocol import POD_NAME, POD_NAMESPACE, POD_UID, Mount, RuntimeFailure, SandboxConfig
from netplane.kernel import cgroup, netns
from netplane.kernel.errors import KernelError
from netplane.lib import log
from netplane.lib.clock import Clock, rfc3339_micro

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_log = log.get("agent.runtime")


@dataclass(slots=True)
class Sandboxes:
    """The sandboxes of this node by id. `changed` is called with a pod UID when a pause process dies by itself."""

    layout: Layout
    programs: Programs
    plugins: Plugins
    host: Host
    clock: Clock
    changed: Callable[[str], None]
    by_id: dict[str, SandboxRecord] = field(default_factory=dict)
    _watched: dict[str, Callable[[], None]] = field(default_factory=dict)

    async def run(self, config: SandboxConfig) -> str:
        """Make a sandbox and return its id; after a failure nothing of it is left. Raises RuntimeFailure."""
        record = self._record(config)
        self._keep(record)
        try:
            if record.netns:
                await asyncio.to_thread(_make_network, record.netns)
            await asyncio.to_thread(self._write_files, record, config)
            ips, process = await self._attach_and_pause(record, config)
        except BaseException as error:
            await asyncio.shield(self._abandon(record))
            if isinstance(error, KernelError):
                raise RuntimeFailure(str(error)) from error
            raise
        record = dataclasses.replace(record, ips=list(ips), pause=process, stopped=False)
        self._keep(record)
        self._watch(record)
        return record.id

    async def stop(self, sandbox_id: str) -> None:
        """Take the network down and end the pause process. Raises RuntimeFailure when a CNI plugin refuses."""
        record = self.by_id.get(sandbox_id)
        if record is None:
            return
        self._unwatch(sandbox_id)
        await self._disconnect(record)
        await crun.delete_if_present(self.programs, record.id)
        await asyncio.to_thread(self._unmake, record)
        self._keep(dataclasses.replace(record, stopped=True, pause=Process()))

    async def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox, stopping it first; with a pod's last one goes the pod's cgroup."""
        record = self.by_id.get(sandbox_id)
        if record is None:
            return
        await self.stop(sandbox_id)
        await asyncio.to_thread(shutil.rmtree, self.layout.sandbox(sandbox_id), True)
        await asyncio.to_thread(shutil.rmtree, self.layout.bundle(sandbox_id), True)
        del self.by_id[sandbox_id]
        if not any(other.uid == record.uid for other in self.by_id.values()):
            with contextlib.suppress(KernelError):
                await asyncio.to_thread(_remove_cgroup, record.cgroup_parent)

    def files(self, sandbox_id: str) -> tuple[Mount, ...]:
        """Return what every container of the sandbox gets mounted."""
        folder = self.layout.sandbox(sandbox_id)
        return (
            Mount(str(folder / "hostname"), "/etc/hostname"),
            Mount(str(folder / "resolv.conf"), "/etc/resolv.conf"),
            Mount("/dev/shm" if self.by_id[sandbox_id].host_ipc else str(self.layout.shm(sandbox_id)), "/dev/shm"),
        )

    def namespaces(self, sandbox_id: str) -> dict[str, str]:
        """Return the namespaces that a container of the sandbox joins; "" for one of its own."""
        record = self.by_id[sandbox_id]
        held = f"/proc/{record.pause.pid}/ns"
        joined = {"uts": f"{held}/uts"}
        if not record.host_ipc:
            joined["ipc"] = f"{held}/ipc"
        if record.netns:
            joined["network"] = record.netns
        if not record.host_pid:
            joined["pid"] = f"{held}/pid" if record.share_pid else ""
        return joined

    async def load(self) -> None:
        """Take over the sandboxes that an earlier agent made; one whose pause process is gone counts as stopped."""
        self.by_id = records.read_all(self.layout.sandboxes, SandboxRecord)
        await asyncio.to_thread(pause.install, self.layout.pause)
        for record in self.by_id.values():
            if record.stopped:
                continue
            if processes.is_alive(record.pause):
                self._watch(record)
            else:
                self._keep(dataclasses.replace(record, stopped=True))

    def close(self) -> None:
        """Stop watching; everything goes on running."""
        for sandbox_id in tuple(self._watched):
            self._unwatch(sandbox_id)

    def _record(self, config: SandboxConfig) -> SandboxRecord:
        return SandboxRecord(
            id=uuid.uuid4().hex + uuid.uuid4().hex,
            attempt=config.attempt,
            created_at=rfc3339_micro(self.clock.now()),
            hostname=config.hostname,
            cgroup_parent=config.cgroup_parent,
            log_directory=str(config.log_directory),
            netns="" if config.host_network else str(self.layout.network(config.uid)),
            host_pid=config.host_pid,
            host_ipc=config.host_ipc,
            share_pid=config.share_pid,
            # Until all of it stands it is not ready: so it is found, and taken down, if the agent dies meanwhile.
            stopped=True,
            labels={POD_UID: config.uid, POD_NAME: config.name, POD_NAMESPACE: config.namespace, **config.labels},
            annotations={
                **config.annotations,
                "netplane/port-mappings": json.dumps([dataclasses.asdict(m) for m in config.port_mappings]),
            }
            if config.port_mappings
            else dict(config.annotations),
        )

    async def _attach_and_pause(self, record: SandboxRecord, config: SandboxConfig) -> tuple[tuple[str, ...], Process]:
        try:
            async with asyncio.TaskGroup() as group:
                attaching = group.create_task(self._connect(record, config))
                pausing = group.create_task(self._run_pause(record, config))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return attaching.result(), pausing.result()

    async def _connect(self, record: SandboxRecord, config: SandboxConfig) -> tuple[str, ...]:
        if not record.netns:
            return ()
        where = dataclasses.replace(_attachment(record), port_mappings=config.port_mappings)
        try:
            return await self.plugins.add(where)
        except CniError as error:
            raise RuntimeFailure(f'failed to setup network for sandbox "{record.id}": {error}') from error

    async def _disconnect(self, record: SandboxRecord) -> None:
        if not record.netns:
            return
        where = _attachment(record)
        if not netns.exists(record.netns):
            where = dataclasses.replace(where, netns="")
        try:
            await self.plugins.delete(where)
        except CniError as error:
            raise RuntimeFailure(f'failed to destroy network for sandbox "{record.id}": {error}') from error

    async def _run_pause(self, record: SandboxRecord, config: SandboxConfig) -> Process:
        kinds = {"uts": ""}
        if not config.host_ipc:
            kinds["ipc"] = ""
        if record.netns:
            kinds["network"] = record.netns
        if not config.host_pid:
            kinds["pid"] = ""
        folder = self.layout.bundle(record.id)
        document = bundle.pause(
            str(self.layout.pause),
            hostname=config.hostname,
            cgroup=f"{config.cgroup_parent}/{record.id}",
            namespaces=kinds,
            sysctls=config.sysctls,
            host=self.host,
        )
        (folder / "config.json").write_text(json.dumps(document))
        return processes.identify(await crun.run_detached(self.programs, record.id, folder))

    def _write_files(self, record: SandboxRecord, config: SandboxConfig) -> None:
        folder = self.layout.sandbox(record.id)
        self.layout.bundle(record.id).mkdir(parents=True, exist_ok=True)
        (folder / "hostname").write_text(config.hostname + "\n")
        dns = config.dns
        lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
        lines += [f"nameserver {server}" for server in dns.servers]
        lines += [f"options {' '.join(dns.options)}"] if dns.options else []
        (folder / "resolv.conf").write_text("".join(f"{line}\n" for line in lines))
        if not config.host_ipc:
            mounts.tmpfs(self.layout.shm(record.id), size=64 << 20)

    async def _abandon(self, record: SandboxRecord) -> None:
        try:
            await self.remove(record.id)
        except RuntimeFailure as error:
            _log.warning("half-made sandbox not taken down; will be tried again", sandbox=record.id, error=str(error))

    def _unmake(self, record: SandboxRecord) -> None:
        if record.netns and not self._is_shared(record):
            netns.remove_if_present(record.netns)
        mounts.unmount_if_present(self.layout.shm(record.id))

    def _is_shared(self, record: SandboxRecord) -> bool:
        others = (other for other in self.by_id.values() if other.id != record.id)
        return any(other.netns == record.netns and not other.stopped for other in others)

    def _keep(self, record: SandboxRecord) -> None:
        self.by_id[record.id] = record
        records.write(self.layout.sandbox(record.id), record)

    def _watch(self, record: SandboxRecord) -> None:
        def ended() -> None:
            self._watched.pop(record.id, None)
            self._keep(dataclasses.replace(self.by_id[record.id], stopped=True, pause=Process()))
            self.changed(record.uid)

        self._watched[record.id] = processes.on_exit(record.pause, ended)

    def _unwatch(self, sandbox_id: str) -> None:
        if stop := self._watched.pop(sandbox_id, None):
            stop()


def _attachment(record: SandboxRecord) -> Attachment:
    namespace, name = record.labels.get(POD_NAMESPACE, ""), record.labels.get(POD_NAME, "")
    return Attachment(record.id, record.uid, namespace, name, record.netns)


def _make_network(path: str) -> None:
    netns.remove_if_present(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    netns.create(path)
    try:
        netns.run_in(path, _loopback_up)
    except BaseException:
        netns.remove_if_present(path)
        raise


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def _remove_cgroup(path: str) -> None:
    cgroup.kill(path.lstrip("/"))
    cgroup.remove_if_present(path.lstrip("/"))
