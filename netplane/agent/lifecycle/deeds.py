"""Do what was decided for a pod, one deed at a time for each key; failures become Events and holds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from netplane.agent.lifecycle.memory import Memory
from netplane.agent.lifecycle.report import Report
from netplane.agent.lifecycle.services import Services
from netplane.agent.lifecycle.shares import Shares
from netplane.agent.lifecycle.starting import StartFailed, Starting
from netplane.agent.pods import config, qos, resize
from netplane.agent.pods.decide import (
    FINISH,
    LEAST_GRACE,
    SANDBOX,
    VOLUMES,
    Action,
    Finish,
    Forget,
    PrepareVolumes,
    Release,
    Remove,
    RemoveSandbox,
    Resize,
    RunSandbox,
    Start,
    Stop,
    StopSandbox,
)
from netplane.agent.pods.fields import Surroundings
from netplane.agent.pods.observed import Observed
from netplane.agent.pods.spec import Pod
from netplane.agent.probes.checks import CheckFailed, Target
from netplane.agent.runtime.protocol import RuntimeFailure
from netplane.agent.volumes.content import VolumeError
from netplane.kube import errors
from netplane.kube.events import EventKind
from netplane.kube.types import PODS
from netplane.lib import log

NOT_READY = "network is not ready: container runtime network not ready: NetworkReady=false reason:{} message:{}"

_log = log.get("agent")


class Deeds:
    """Does things for one pod. `look` returns what is known now, `forgotten` is called when nothing is left of it."""

    def __init__(
        self,
        services: Services,
        memory: Memory,
        shares: Shares,
        report: Report,
        look: Callable[[], Observed],
        forgotten: Callable[[], None],
    ) -> None:
        self._services = services
        self._memory = memory
        self._shares = shares
        self._report = report
        self._look = look
        self._forgotten = forgotten
        self._hooked: set[str] = set()
        self.volumes_ready = False

    async def do(self, action: Action) -> None:
        """Do it. Nothing is raised but by cancellation; what failed is to be decided upon again."""
        match action:
            case PrepareVolumes():
                await self._prepare_volumes()
            case RunSandbox():
                await self._run_sandbox(action)
            case Start():
                await self._start(action)
            case Stop():
                await self._stop(action)
            case Resize():
                await self._resize(action)
            case StopSandbox():
                await self._stop_sandbox(action)
            case Remove():
                await self._remove(action)
            case RemoveSandbox():
                await self._services.runtime.remove_sandbox(action.id)
            case Release():
                await self._services.volumes.release(self._pod.uid)
                self.volumes_ready = False
            case Finish():
                await self._finish()
            case Forget():
                await self._forget()

    async def refresh_volumes(self) -> None:
        """Show what changed in the objects that the volumes hold."""
        try:
            await self._services.volumes.refresh(self._pod, self._around())
        except VolumeError as error:
            _log.info("volume not brought up to date", pod=_key(self._pod), error=str(error))

    @property
    def _pod(self) -> Pod:
        return self._look().pod

    @property
    def _now(self) -> datetime:
        return self._services.clock.now()

    async def _prepare_volumes(self) -> None:
        try:
            await self._services.volumes.prepare(self._pod, self._around())
        except VolumeError as error:
            self._event("Warning", "FailedMount", str(error))
            self._memory.hold(VOLUMES, self._now, first=0.5, longest=122)
            return
        self._memory.done(VOLUMES)
        self.volumes_ready = True

    async def _run_sandbox(self, action: RunSandbox) -> None:
        pod, runtime = self._pod, self._services.runtime
        network = (await runtime.status()).network
        if not network.ok and not pod.host_network:
            self._event("Warning", "NetworkNotReady", NOT_READY.format(network.reason, network.message))
            self._memory.hold(SANDBOX, self._now, first=0.2, longest=2)
            return
        try:
            async with self._services.slots:
                for old in runtime.sandboxes(pod.uid):
                    await runtime.stop_sandbox(old.id)
                await runtime.run_sandbox(config.sandbox(pod, self._services.node, action.attempt))
        except RuntimeFailure as error:
            text = f"Failed to create pod sandbox: rpc error: code = Unknown desc = {error}"
            self._event("Warning", "FailedCreatePodSandBox", text)
            self._memory.hold(SANDBOX, self._now, first=1, longest=10)
            return
        if action.attempt:
            self._event("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        self._memory.done(SANDBOX)

    async def _start(self, action: Start) -> None:
        seen = self._look()
        container, sandbox = seen.pod.container(action.name), seen.sandbox
        if container is None or sandbox is None:
            return
        self._memory.restarting(action.name, seen.latest(action.name), self._now)
        starting = Starting(self._services, seen.pod, container, sandbox, action.attempt)
        try:
            container_id = await starting.start()
            self._memory.started(action.name)
            self._shares.apply(container_id, resize.share(container))
            await starting.post_start(container_id)
        except StartFailed as failure:
            self._memory.not_started(action.name, failure.waiting, self._now, is_image=failure.is_image)

    async def _stop(self, action: Stop) -> None:
        seen, clock = self._look(), self._services.clock
        began = clock.monotonic()
        self._event("Normal", "Killing", action.message)
        container = seen.pod.container(action.name)
        if container and container.pre_stop and action.id not in self._hooked and action.grace > LEAST_GRACE:
            self._hooked.add(action.id)
            ips = seen.sandbox.ips if seen.sandbox else ()
            target = Target(seen.pod, container, action.id, ips or self._services.node.ips)
            try:
                async with asyncio.timeout(action.grace):
                    await self._services.checks.hook(container.pre_stop, target, action.grace)
            except (CheckFailed, TimeoutError) as error:
                self._event("Warning", "FailedPreStopHook", f"PreStopHook failed: {error}".rstrip(": "))
        left = max(action.grace - (clock.monotonic() - began), LEAST_GRACE)
        try:
            await self._services.runtime.stop_container(action.id, left)
        except RuntimeFailure as error:
            self._event("Warning", "FailedKillPod", f"error killing pod: {error}")
            self._memory.hold(action.name, self._now, first=1, longest=10)

    async def _resize(self, action: Resize) -> None:
        pod, node = self._pod, self._services.node
        container = pod.container(action.name)
        if container is None:
            return
        limits = qos.limits(pod, container, node_memory=node.memory, pids=node.pids_per_container)
        try:
            await self._services.runtime.update_container(action.id, limits)
        except RuntimeFailure as error:
            self._memory.resize_error = f'failed to resize container "{action.name}": {error}'
            self._event("Warning", "ResizeError", self._memory.resize_error)
            self._memory.hold(action.name, self._now, first=1, longest=30)
            return
        self._memory.resize_error = ""
        self._memory.done(action.name)
        self._shares.apply(action.id, resize.share(container))

    async def _stop_sandbox(self, action: StopSandbox) -> None:
        try:
            await self._services.runtime.stop_sandbox(action.id)
        except RuntimeFailure as error:
            self._event("Warning", "FailedKillPod", f'error killing pod: failed to "KillPodSandbox": {error}')
            self._memory.hold(SANDBOX, self._now, first=0.5, longest=10)
            return
        self._memory.done(SANDBOX)

    async def _remove(self, action: Remove) -> None:
        runtime = self._services.runtime
        path = runtime.log_file(action.id)
        await runtime.remove_container(action.id)
        for old in (path, *path.parent.glob(f"{path.name}.*")):
            old.unlink(missing_ok=True)

    async def _finish(self) -> None:
        pod = self._pod
        await self._services.volumes.release(pod.uid)
        self.volumes_ready = False
        await self._report.flush()
        try:
            await self._services.api.delete(PODS, pod.name, namespace=pod.namespace, grace_seconds=0, uid=pod.uid)
        except (errors.NotFound, errors.Conflict):
            return
        except errors.ApiError as error:
            _log.warning("pod not deleted from the API", pod=_key(pod), error=str(error))
        # Until the watch tells that it is gone there is nothing to do; should that not come, ask again.
        self._memory.hold(FINISH, self._now, first=1, longest=10)

    async def _forget(self) -> None:
        pod, runtime = self._pod, self._services.runtime
        try:
            for sandbox in runtime.sandboxes(pod.uid):
                await runtime.remove_sandbox(sandbox.id)
        except RuntimeFailure as error:
            _log.warning("pod not cleaned up", pod=_key(pod), error=str(error))
            self._memory.hold(FINISH, self._now, first=1, longest=10)
            return
        await self._services.volumes.release(pod.uid)
        self._services.references.forget(pod.uid)
        await asyncio.to_thread(_remove, self._services.node.folder(pod.uid))
        self._forgotten()

    def _around(self) -> Surroundings:
        node, seen = self._services.node, self._look()
        ips = seen.sandbox.ips if seen.sandbox else ()
        return Surroundings(node.name, node.ips, ips, node.allocatable)

    def _event(self, kind: EventKind, reason: str, message: str) -> None:
        self._services.recorder.record(self._pod.obj, kind, reason, message)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _key(pod: Pod) -> str:
    return f"{pod.namespace}/{pod.name}"
