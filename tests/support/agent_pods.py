"""Build pods and what a runtime says of them, for tests of the agent; and be a runtime without a kernel."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from netplane.agent.pods import spec
from netplane.agent.pods.observed import Observed
from netplane.agent.pods.spec import Pod
from netplane.agent.runtime.protocol import (
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    Completed,
    Condition,
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    ImageMissing,
    ImageStatus,
    Resources,
    RuntimeFailure,
    RuntimeStatus,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
    Stream,
    Usage,
)
from netplane.kube.types import Object
from netplane.lib.clock import Clock

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
IMAGE = "busybox:1"


def at(seconds: float) -> datetime:
    """Return the moment so many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def pod_object(*containers: Object, metadata: Mapping[str, Any] | None = None, **pod_spec: Any) -> Object:
    """Return a pod as the API has it; without containers it has one, `main`."""
    wanted = [{"image": IMAGE, "imagePullPolicy": "IfNotPresent", **c} for c in containers or ({"name": "main"},)]
    init = [{"image": IMAGE, "imagePullPolicy": "IfNotPresent", **c} for c in pod_spec.pop("initContainers", ())]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", **(metadata or {})},
        "spec": {"nodeName": "node-1", "containers": wanted, **({"initContainers": init} if init else {}), **pod_spec},
        "status": {},
    }


def pod(*containers: Object, **pod_spec: Any) -> Pod:
    """Return it as the agent reads it."""
    return spec.read(pod_object(*containers, **pod_spec))


def sandbox(attempt: int = 0, state: SandboxState = "ready", ips: tuple[str, ...] = ("10.0.0.5",)) -> SandboxStatus:
    """Return a sandbox of that pod."""
    return SandboxStatus(f"s{attempt}", "u1", "default", "web", attempt, state, NOW, ips)


def container(
    name: str = "main",
    state: ContainerState = "running",
    *,
    attempt: int = 0,
    code: int = 0,
    started: float = 0,
    finished: float = 10,
    sandbox_id: str = "s0",
) -> ContainerStatus:
    """Return a container of that pod."""
    return ContainerStatus(
        id=f"{name}-{attempt}",
        sandbox_id=sandbox_id,
        name=name,
        attempt=attempt,
        state=state,
        created_at=at(started),
        started_at=at(started) if state != "created" else None,
        finished_at=at(finished) if state == "exited" else None,
        exit_code=code,
        reason=("Error" if code else "Completed") if state == "exited" else "",
        image=IMAGE,
        image_ref="sha256:1",
    )


def seen(one: Pod, *containers: ContainerStatus, **known: Any) -> Observed:
    """Return what is known of a pod: its volumes are ready, and it has a sandbox unless told otherwise."""
    fields: dict[str, Any] = {"now": NOW, "sandboxes": (sandbox(),), "volumes_ready": True, "started_at": NOW}
    newest_first = tuple(sorted(containers, key=lambda status: -status.attempt))
    return Observed(pod=one, containers=newest_first, **(fields | known))


@dataclass(slots=True)
class FakeRuntime:
    """A runtime in memory: containers run until a test ends them; stopping is obeyed at once."""

    clock: Clock
    name: str = "fake"
    version: str = "1"
    network: Condition = field(default_factory=lambda: Condition(True))
    images: set[str] = field(default_factory=lambda: {IMAGE})
    refusals: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    execs: dict[str, Completed] = field(default_factory=dict)
    configs: dict[str, ContainerConfig] = field(default_factory=dict)
    _sandboxes: dict[str, SandboxStatus] = field(default_factory=dict)
    _containers: dict[str, ContainerStatus] = field(default_factory=dict)
    _changes: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def end(self, container_name: str, code: int, reason: str = "") -> None:
        """Let the running container of that name end by itself."""
        status = next(s for s in self.containers() if s.name == container_name and s.state == "running")
        self._finish(status.id, code, reason)
        self._changes.put_nowait(self._sandboxes[status.sandbox_id].uid)

    def lose_sandbox(self) -> None:
        """Let the pause process of every sandbox die."""
        for id_, status in self._sandboxes.items():
            self._sandboxes[id_] = dataclasses.replace(status, state="notready")
            self._changes.put_nowait(status.uid)

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(Condition(True), self.network)

    async def run_sandbox(self, config: SandboxConfig) -> str:
        self._try("run_sandbox", str(config.attempt))
        id_ = f"s{len(self._sandboxes)}"
        labels = {POD_UID: config.uid, POD_NAME: config.name, POD_NAMESPACE: config.namespace}
        ips = () if config.host_network else ("10.0.0.5",)
        self._sandboxes[id_] = SandboxStatus(
            id_, config.uid, config.namespace, config.name, config.attempt, "ready", self.clock.now(), ips, labels
        )
        return id_

    async def stop_sandbox(self, sandbox_id: str) -> None:
        self._try("stop_sandbox", sandbox_id)
        for status in self.containers():
            if status.sandbox_id == sandbox_id and status.state != "exited":
                self._finish(status.id, 137, "")
        if sandbox_id in self._sandboxes:
            self._sandboxes[sandbox_id] = dataclasses.replace(self._sandboxes[sandbox_id], state="notready")

    async def remove_sandbox(self, sandbox_id: str) -> None:
        self._try("remove_sandbox", sandbox_id)
        for status in self.containers():
            if status.sandbox_id == sandbox_id:
                del self._containers[status.id]
        self._sandboxes.pop(sandbox_id, None)

    def sandboxes(self, uid: str = "") -> Sequence[SandboxStatus]:
        found = [status for status in self._sandboxes.values() if uid in ("", status.uid)]
        return sorted(found, key=lambda status: -status.attempt)

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        self._try("create", config.name)
        id_ = f"{config.name}-{config.attempt}"
        self.configs[id_] = config
        self._containers[id_] = ContainerStatus(
            id=id_,
            sandbox_id=sandbox_id,
            name=config.name,
            attempt=config.attempt,
            state="created",
            created_at=self.clock.now(),
            image=config.image,
            image_ref="sha256:1",
            annotations=config.annotations,
        )
        return id_

    async def start_container(self, container_id: str) -> None:
        name = self._containers[container_id].name
        try:
            self._try("start", name)
        except RuntimeFailure as error:
            self._finish(container_id, 128, "StartError")
            raise error
        self._containers[container_id] = dataclasses.replace(
            self._containers[container_id], state="running", started_at=self.clock.now()
        )

    async def stop_container(self, container_id: str, grace: float) -> None:
        status = self._containers.get(container_id)
        if status is not None and status.state != "exited":
            self._try("stop", f"{status.name} {grace:g}")
            self._finish(container_id, 0 if status.state == "running" else 128, "")

    async def update_container(self, container_id: str, resources: Resources) -> None:
        self._try("update", f"{container_id} {resources.cpu_quota} {resources.memory}")

    async def remove_container(self, container_id: str) -> None:
        self._try("remove", container_id)
        self._containers.pop(container_id, None)

    def containers(self, uid: str = "") -> Sequence[ContainerStatus]:
        found = [s for s in self._containers.values() if uid in ("", self._sandboxes[s.sandbox_id].uid)]
        return sorted(found, key=lambda status: -status.attempt)

    async def exec_sync(self, container_id: str, argv: Sequence[str], limit: float) -> Completed:
        self._try("exec", " ".join(argv))
        return self.execs.get(" ".join(argv), Completed(0, b""))

    async def exec(self, container_id: str, argv: Sequence[str], *, tty: bool, stdin: bool) -> Stream:
        raise NotImplementedError

    async def attach(self, container_id: str, *, stdin: bool) -> Stream:
        raise NotImplementedError

    async def connect(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise NotImplementedError

    async def reopen_log(self, container_id: str) -> None:
        self.calls.append(f"reopen {container_id}")

    def log_file(self, container_id: str) -> Path:
        return Path("/nonexistent") / container_id

    def usage(self, container_id: str) -> Usage:
        return Usage(1, 2, 3, 4)

    def image(self, reference: str) -> ImageStatus | None:
        return ImageStatus(reference, "sha256:1", uid=0) if reference in self.images else None

    def list_images(self) -> Sequence[ImageStatus]:
        return [ImageStatus(reference, "sha256:1", uid=0) for reference in self.images]

    async def pull(self, reference: str) -> ImageStatus:
        found = self.image(reference)
        if found is None:
            raise ImageMissing(f"{reference} is not here")
        return found

    async def changes(self) -> AsyncIterator[str]:
        while True:
            yield await self._changes.get()

    def _try(self, verb: str, what: str) -> None:
        self.calls.append(f"{verb} {what}")
        if verb in self.refusals:
            raise RuntimeFailure(self.refusals[verb])

    def _finish(self, container_id: str, code: int, reason: str) -> None:
        self._containers[container_id] = dataclasses.replace(
            self._containers[container_id],
            state="exited",
            exit_code=code,
            finished_at=self.clock.now(),
            reason=reason or ("Error" if code else "Completed"),
        )
