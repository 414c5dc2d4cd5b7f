"""Keep one pod as it should be: look, decide, do, report; then wait until something changes."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta

from netplane.agent.lifecycle import memory
from netplane.agent.lifecycle.deeds import Deeds
from netplane.agent.lifecycle.memory import Memory
from netplane.agent.lifecycle.report import Report
from netplane.agent.lifecycle.services import Services
from netplane.agent.lifecycle.shares import Shares
from netplane.agent.pods import decide as deciding
from netplane.agent.pods import resize
from netplane.agent.pods import status as statuses
from netplane.agent.pods.decide import Action, Decision, Forget
from netplane.agent.pods.observed import Observed, Waiting
from netplane.agent.pods.spec import Pod, Probe, ProbeKind
from netplane.agent.probes import run as probing
from netplane.agent.probes.checks import Target
from netplane.agent.runtime.protocol import ContainerStatus
from netplane.lib import clock as clocks
from netplane.lib import log

REFRESH = timedelta(seconds=60)
VERBS = {
    "PrepareVolumes": "prepare",
    "RunSandbox": "run",
    "Start": "start",
    "Stop": "stop",
    "Resize": "resize",
    "Finish": "finish",
    "Forget": "finish",
}
MOST_REST = 3600.0

_log = log.get("agent")


class Worker:
    """One pod's keeper; it ends by itself when nothing is left of the pod."""

    def __init__(self, pod: Pod, services: Services, *, is_gone: bool = False) -> None:
        self._wanted = pod
        self._pending: Waiting | None = None
        self._services = services
        self._shares = Shares(services.node.folder(pod.uid))
        # What it wants beyond that is weighed when all pods of the node are known.
        self.pod = services.pods[pod.uid] = resize.held(pod, self._shares.given)
        self._is_gone = is_gone
        self._memory = Memory(verdicts=memory.adopted_verdicts(pod.status, services.runtime.name))
        self._report = Report(services.api, pod, services.clock)
        self._deeds = Deeds(services, self._memory, self._shares, self._report, self._observe, self._forget)
        self._busy: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._probes: dict[tuple[str, ProbeKind], asyncio.Task[None]] = {}
        self._waiting: frozenset[str] = frozenset()
        self._woken = asyncio.Event()
        self._is_forgotten = False
        self._objects_changed = False
        start = pod.status.get("startTime")
        self._started_at = clocks.parse(start) if start else services.clock.now()
        self._refresh_at = services.clock.now() + REFRESH

    def offer(self, pod: Pod) -> None:
        """Take the pod as the API has it now."""
        is_new = pod.deleted_at is not None and self.pod.deleted_at is None
        if is_new or (pod.deletion_grace or 0) < (self.pod.deletion_grace or 0):
            # Somebody is in more of a hurry: what is being ended (or restarted) gets the shorter time.
            for verb, task in self._busy.values():
                if verb == "stop":
                    task.cancel()
        if any(
            pod.obj["metadata"].get(name) != self.pod.obj["metadata"].get(name) for name in ("labels", "annotations")
        ):
            self._refresh_at = self._services.clock.now()
        self._wanted = pod
        self._allot()
        self._woken.set()

    def vanish(self) -> None:
        """Learn that the API has no such pod any more."""
        self._is_gone = True
        self._woken.set()

    def poke(self) -> None:
        """Look again: something in the runtime changed."""
        self._woken.set()

    def objects_changed(self) -> None:
        """Learn that a ConfigMap or Secret of the pod changed."""
        self._objects_changed = True
        self._woken.set()

    def successor(self) -> Worker:
        """Return a keeper that begins anew with what this one knew of the API."""
        return Worker(self._wanted, self._services, is_gone=self._is_gone)

    @property
    def status(self) -> dict[str, object]:
        """The pod with its newest status, as /pods shows it."""
        return {**self.pod.obj, "status": dict(self._report.latest)}

    async def run(self) -> None:
        """Work until the pod is gone and forgotten."""
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report.run())
            while not self._is_forgotten:
                self._woken.clear()
                wake_at = self._step(group)
                await self._rest(wake_at)
            reporting.cancel()
            self._services.pods.pop(self.pod.uid, None)
            for task in (*self._probes.values(), *(task for _, task in self._busy.values())):
                task.cancel()

    def _allot(self) -> None:
        """Give the pod what it wants of the node, or what it had."""
        services = self._services
        others = services.pods.values()
        allotment = resize.allot(self._wanted, self._shares.given, others, services.node.allocatable)
        self.pod, self._pending = allotment.pod, allotment.pending
        self._shares.give(self.pod)
        services.pods[self.pod.uid] = self.pod

    def _step(self, group: asyncio.TaskGroup) -> datetime | None:
        self._allot()
        self._turn_pulls()
        self._note_objects(group)
        seen = self._observe()
        self._shares.forget(frozenset(status.id for status in seen.containers))
        decision = deciding.decide(seen)
        self._tell_backoffs(decision)
        self._tend_probes(group, seen)
        self._tell_status(seen, decision)
        for key in decision.cancel:
            self._busy[key][1].cancel()
        names = {status.id: status.name for status in seen.containers}
        for action in decision.actions:
            key = deciding.key_of(action, names=names)
            if key not in self._busy:
                task = group.create_task(self._do(key, action))
                self._busy[key] = (VERBS.get(type(action).__name__, "other"), task)
        moments = (decision.wake_at, self._memory.next_turn(), self._refresh_at)
        return min((moment for moment in moments if moment), default=None)

    async def _rest(self, until: datetime | None) -> None:
        clock = self._services.clock
        seconds = MOST_REST if until is None else (until - clock.now()).total_seconds()
        await clocks.wait(self._woken, min(max(seconds, 0.001), MOST_REST), clock)

    async def _do(self, key: str, action: Action) -> None:
        try:
            await self._deeds.do(action)
        except Exception:
            # One pod's trouble must not be another's, nor end this one's keeper.
            _log.exception("deed failed", pod=f"{self.pod.namespace}/{self.pod.name}", deed=type(action).__name__)
            self._memory.hold(key, self._services.clock.now(), first=1, longest=60)
        finally:
            self._busy.pop(key, None)
            self._woken.set()

    def _observe(self) -> Observed:
        runtime, uid = self._services.runtime, self.pod.uid
        containers = tuple(runtime.containers(uid))
        logs = {status.id: runtime.log_file(status.id) for status in containers if status.state == "exited"}
        self._memory.learn_messages(containers, logs)
        return Observed(
            pod=self.pod,
            now=self._services.clock.now(),
            sandboxes=tuple(runtime.sandboxes(uid)),
            containers=containers,
            probes=self._memory.verdicts,
            volumes_ready=self._deeds.volumes_ready,
            backoff=self._memory.backoff,
            holds=self._memory.holds,
            busy={key: verb for key, (verb, _) in self._busy.items()},
            started_at=self._started_at,
            gone=self._is_gone,
            applied=self._shares.applied,
            pending=self._pending,
            resize_error=self._memory.resize_error,
        )

    def _tell_status(self, seen: Observed, decision: Decision) -> None:
        if seen.gone or any(isinstance(action, Forget) for action in decision.actions):
            return
        services = self._services
        extra = statuses.Extra(services.runtime.name, services.node.ips, self._memory.failures, self._memory.messages)
        self._report.offer(statuses.status(seen, decision, extra, self._report.latest))

    def _tell_backoffs(self, decision: Decision) -> None:
        for name in sorted(decision.waiting.keys() - self._waiting):
            text = f"Back-off restarting failed container {name} in pod {self.pod.full_name}"
            self._services.recorder.record(self.pod.obj, "Warning", "BackOff", text)
        self._waiting = frozenset(decision.waiting)

    def _turn_pulls(self) -> None:
        for name in self._memory.pulls_backing_off(self._services.clock.now()):
            container = self.pod.container(name)
            image = container.image if container else ""
            text = f'Back-off pulling image "{image}"'
            cause = self._memory.failures[name].message
            self._memory.failures[name] = Waiting("ImagePullBackOff", f"{text}: ErrImagePull: {cause}")
            self._services.recorder.record(self.pod.obj, "Normal", "BackOff", text)
            self._services.recorder.record(self.pod.obj, "Warning", "Failed", "Error: ImagePullBackOff")

    def _note_objects(self, group: asyncio.TaskGroup) -> None:
        now = self._services.clock.now()
        if self._objects_changed:
            self._objects_changed = False
            names = {container.name for container in self.pod.all_containers + self.pod.ephemeral_containers}
            config_errors = {n for n in names if self._is_config_error(n)}
            self._memory.clear_holds(config_errors | {deciding.VOLUMES})
            self._refresh_at = now
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH
            if self._deeds.volumes_ready and deciding.VOLUMES not in self._busy:
                self._busy[deciding.VOLUMES] = ("refresh", group.create_task(self._refresh()))

    def _is_config_error(self, name: str) -> bool:
        failure = self._memory.failures.get(name)
        return failure is not None and failure.reason == "CreateContainerConfigError"

    async def _refresh(self) -> None:
        try:
            await self._deeds.refresh_volumes()
        finally:
            self._busy.pop(deciding.VOLUMES, None)
            self._woken.set()

    def _tend_probes(self, group: asyncio.TaskGroup, seen: Observed) -> None:
        """Have a probe running for each container that wants one now, and no other."""
        wanted: dict[tuple[str, ProbeKind], tuple[Probe, ContainerStatus]] = {}
        is_ending = seen.gone or bool(seen.pod.deleted_at)
        for container in seen.pod.all_containers:
            status = seen.current(container.name)
            if status is None or status.state != "running" or (container.is_init and not container.is_sidecar):
                continue
            for kind, probe in container.probes:
                is_wanted = (kind == "startup") != seen.is_started(container, status)
                if is_wanted and (kind == "readiness" or not is_ending):
                    wanted[status.id, kind] = (probe, status)
        for key in [key for key in self._probes if key not in wanted]:
            self._probes.pop(key).cancel()
        for key, (probe, status) in wanted.items():
            if key not in self._probes:
                self._probes[key] = group.create_task(self._probe(seen, status, key[1], probe))
        known = {status.id for status in seen.containers}
        for entry in [entry for entry in self._memory.verdicts if entry[0] not in known]:
            del self._memory.verdicts[entry]

    async def _probe(self, seen: Observed, status: ContainerStatus, kind: ProbeKind, probe: Probe) -> None:
        container = seen.pod.container(status.name)
        if container is None or seen.sandbox is None:
            return

        def verdict(is_good: bool) -> None:
            self._memory.verdicts[status.id, kind] = is_good
            self._woken.set()

        def failed(why: str) -> None:
            text = f"{kind.capitalize()} probe failed: {why}"
            self._services.recorder.record(self.pod.obj, "Warning", "Unhealthy", text)

        target = Target(seen.pod, container, status.id, seen.sandbox.ips or self._services.node.ips)
        started_at = status.started_at or status.created_at
        with contextlib.suppress(asyncio.CancelledError):
            await probing.watch(
                self._services.checks,
                probe,
                target,
                started_at=started_at,
                clock=self._services.clock,
                verdict=verdict,
                failed=failed,
                is_eager=kind == "readiness",
            )

    def _forget(self) -> None:
        self._is_forgotten = True
        self._woken.set()
