"""Decide what to do next for a pod, as the kubelet's computePodActions does. Doing it is `worker`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from netplane.agent.pods import backoff, resize
from netplane.agent.pods.observed import (
    HASH,
    Observed,
    Waiting,
    content_hash,
    deadline,
    is_finished,
    is_running,
    restarts,
)
from netplane.agent.pods.spec import Container, ProbeKind
from netplane.agent.runtime.protocol import ContainerStatus

LEAST_GRACE = 2.0
KEPT = 2
"""How many containers of one name are kept: the one that counts, and the one before it for `logs --previous`."""
VOLUMES, SANDBOX, FINISH = "/volumes", "/sandbox", "/finish"
"""Keys of what is no container; a container's name has no slash."""


@dataclass(frozen=True, slots=True)
class PrepareVolumes:
    """Make the pod's volumes."""


@dataclass(frozen=True, slots=True)
class RunSandbox:
    """Make a sandbox; what is left of an earlier one is stopped first."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Start:
    """Make and start a container."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End a container: preStop hook, stop signal, SIGKILL after `grace` seconds in all."""

    id: str
    name: str
    message: str
    grace: float


@dataclass(frozen=True, slots=True)
class Resize:
    """Give a running container the cpu and memory that it was allotted."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """Take the pod's network down."""

    id: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a container that ended, with its log."""

    id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Forget a sandbox that was stopped."""

    id: str


@dataclass(frozen=True, slots=True)
class Release:
    """Take the volumes' mounts away: nothing runs any more."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Report the end and delete the pod from the API: everything is stopped."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove all that the node keeps of the pod: the API has it no more."""


Action = (
    PrepareVolumes
    | RunSandbox
    | Start
    | Stop
    | Resize
    | StopSandbox
    | Remove
    | RemoveSandbox
    | Release
    | Finish
    | Forget
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, which of what is being done to give up, and when to look again at the latest."""

    actions: tuple[Action, ...] = ()
    cancel: frozenset[str] = frozenset()
    wake_at: datetime | None = None
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    finished: bool = False


def key_of(action: Action, *, names: Mapping[str, str]) -> str:
    """Return at which key the action is one at a time; `names` gives the container's name for an id."""
    match action:
        case PrepareVolumes() | Release():
            return VOLUMES
        case RunSandbox() | StopSandbox() | RemoveSandbox():
            return SANDBOX
        case Start(name=name) | Stop(name=name) | Resize(name=name):
            return name
        case Remove(id=id_):
            return f"{names.get(id_, id_)}/remove"
        case Finish() | Forget():
            return FINISH


def decide(seen: Observed) -> Decision:
    """Return what brings the pod closer to what it should be."""
    if seen.gone or seen.pod.deleted_at:
        return _end(seen, is_deleted=True)
    if is_finished(seen):
        return _end(seen, is_deleted=False)
    return _Run(seen).decide()


def _end(seen: Observed, *, is_deleted: bool) -> Decision:
    given_up = frozenset(key for key, verb in seen.busy.items() if verb in ("run", "prepare", "start"))
    if given_up:
        return Decision(cancel=given_up, finished=not is_deleted)
    alive = [status for status in seen.containers if is_running(status)]
    if alive:
        return Decision(_stop_in_order(seen, alive), finished=not is_deleted)
    if SANDBOX in seen.busy or FINISH in seen.busy:
        return Decision(finished=not is_deleted)
    ready = [sandbox for sandbox in seen.sandboxes if sandbox.state == "ready"]
    if ready:
        return _unless_held(seen, SANDBOX, StopSandbox(ready[0].id), finished=not is_deleted)
    if seen.gone:
        return _unless_held(seen, FINISH, Forget(), finished=False)
    if is_deleted:
        return _unless_held(seen, FINISH, Finish(), finished=False)
    actions: tuple[Action, ...] = (Release(),) if seen.volumes_ready and VOLUMES not in seen.busy else ()
    return Decision((*actions, *_superfluous(seen)), finished=True)


def _unless_held(seen: Observed, key: str, action: Action, *, finished: bool) -> Decision:
    until = seen.holds.get(key)
    if until and until > seen.now:
        return Decision(wake_at=until, finished=finished)
    return Decision((action,), finished=finished)


def _stop_in_order(seen: Observed, alive: Sequence[ContainerStatus]) -> tuple[Action, ...]:
    """All at once, but sidecars only after the others, the last started first (KEP-753)."""
    sidecars = [c.name for c in seen.pod.init_containers if c.is_sidecar]
    others = [status for status in alive if status.name not in sidecars]
    chosen = others or sorted(alive, key=lambda status: sidecars.index(status.name))[-1:]
    grace = max(_grace(seen), LEAST_GRACE)
    return tuple(
        Stop(status.id, status.name, f"Stopping container {status.name}", grace)
        for status in chosen
        if status.name not in seen.busy
    )


def _grace(seen: Observed) -> float:
    given = seen.pod.deletion_grace
    return float(seen.pod.grace if given is None else given)


def _superfluous(seen: Observed) -> tuple[Action, ...]:
    """Of each container the two newest are kept, of sandboxes the newest and those in which kept containers were."""
    actions: list[Action] = []
    kept: set[str] = {seen.sandboxes[0].id} if seen.sandboxes else set()
    count: dict[str, int] = {}
    for status in seen.containers:
        count[status.name] = count.get(status.name, 0) + 1
        if count[status.name] <= KEPT or is_running(status):
            kept.add(status.sandbox_id)
        elif f"{status.name}/remove" not in seen.busy:
            actions.append(Remove(status.id))
    old = [s for s in seen.sandboxes if s.id not in kept and s.state == "notready"]
    if old and SANDBOX not in seen.busy and not actions:
        actions.append(RemoveSandbox(old[-1].id))
    return tuple(actions)


class _Run:
    """One decision for a pod that is to run; it gathers actions on the way."""

    def __init__(self, seen: Observed) -> None:
        self._seen = seen
        self._actions: list[Action] = []
        self._waiting: dict[str, Waiting] = {}
        self._wakes: list[datetime] = []

    def decide(self) -> Decision:
        seen = self._seen
        if end := deadline(seen):
            self._wakes.append(end)
        if not seen.volumes_ready:
            self._try(VOLUMES, PrepareVolumes())
        if seen.sandbox is None:
            self._make_sandbox()
        else:
            self._containers()
        for action in _superfluous(seen):
            self._actions.append(action)
        wake_at = min((moment for moment in self._wakes if moment > seen.now), default=None)
        return Decision(tuple(self._actions), wake_at=wake_at, waiting=self._waiting)

    def _make_sandbox(self) -> None:
        seen = self._seen
        alive = [status for status in seen.containers if is_running(status)]
        for status in alive:
            self._stop(status, "Pod sandbox changed, it will be killed and re-created.", seen.pod.grace)
        if not alive:
            attempt = seen.sandboxes[0].attempt + 1 if seen.sandboxes else 0
            self._try(SANDBOX, RunSandbox(attempt))

    def _containers(self) -> None:
        self._start_ephemeral()
        if self._initialized() and self._seen.volumes_ready:
            for container in self._seen.pod.containers:
                self._keep_running(container)

    def _start_ephemeral(self) -> None:
        """Start each that never ran, before all others and whatever became of them; none is started twice."""
        seen = self._seen
        known = {s["name"] for s in seen.pod.status.get("ephemeralContainerStatuses") or () if s.get("containerID")}
        for container in seen.pod.ephemeral_containers:
            if seen.latest(container.name) is None and container.name not in known:
                self._start(container, None)

    def _initialized(self) -> bool:
        """Bring the init containers forward; whether the others may start."""
        began = any(self._seen.current(c.name) for c in self._seen.pod.containers)
        for container in self._seen.pod.init_containers:
            status = self._seen.current(container.name)
            if container.is_sidecar:
                self._keep_running(container)
                if not began and not self._seen.is_started(container, status):
                    return False
            elif not began and not (status and status.state == "exited" and status.exit_code == 0):
                self._keep_running(container)
                return False
        return True

    def _keep_running(self, container: Container) -> None:
        status = self._seen.current(container.name)
        if status is None:
            # Of an earlier sandbox it may have ended so that it is not to run again.
            earlier = self._seen.latest(container.name)
            if earlier is None or container.is_init or restarts(self._seen.pod, container, earlier):
                self._start(container, earlier)
        elif status.state == "exited":
            if restarts(self._seen.pod, container, status):
                self._start(container, status)
        elif status.state == "running":
            self._check(container, status)
        else:
            self._stop(status, f"Container {container.name} is in unknown state, will be restarted", LEAST_GRACE)

    def _check(self, container: Container, status: ContainerStatus) -> None:
        kinds: tuple[ProbeKind, ...] = ("startup", "liveness")
        for kind in kinds:
            probe = container.probe(kind)
            if probe and self._seen.probes.get((status.id, kind)) is False:
                grace = self._seen.pod.grace if probe.grace is None else probe.grace
                self._stop(status, f"Container {container.name} failed {kind} probe, will be restarted", grace)
                return
        if status.annotations.get(HASH, content_hash(container)) != content_hash(container):
            message = f"Container {container.name} definition changed, will be restarted"
            self._stop(status, message, self._seen.pod.grace)
            return
        applied = self._seen.applied.get(status.id)
        if applied is None or applied == resize.share(container):
            return
        if resize.needs_restart(container, applied):
            self._stop(status, f"Container {container.name} resize requires restart", self._seen.pod.grace)
        else:
            self._try(container.name, Resize(status.id, container.name))

    def _start(self, container: Container, earlier: ContainerStatus | None) -> None:
        seen = self._seen
        if not seen.volumes_ready or "start" in seen.busy.values() or container.name in seen.busy:
            return
        if earlier and earlier.state == "exited" and earlier.finished_at:
            entry = seen.backoff.get(container.name)
            until = backoff.until(entry, earlier.finished_at)
            if until and entry and until > seen.now:
                text = f"back-off {backoff.spoken(entry.delay)} restarting failed container={container.name}"
                self._waiting[container.name] = Waiting("CrashLoopBackOff", f"{text} pod={seen.pod.full_name}")
                self._wakes.append(until)
                return
        if any(isinstance(action, Start) for action in self._actions):
            return  # One after the other, in the order of the spec.
        self._try(container.name, Start(container.name, self._attempt(container, earlier)))

    def _attempt(self, container: Container, earlier: ContainerStatus | None) -> int:
        if earlier is not None:
            return earlier.attempt + 1
        statuses = (
            self._seen.pod.status.get("initContainerStatuses" if container.is_init else "containerStatuses") or ()
        )
        known = next((s for s in statuses if s.get("name") == container.name), None)
        # The node's own memory is lost, say with its disk: the API still counts.
        return int(known.get("restartCount") or 0) + 1 if known and known.get("containerID") else 0

    def _stop(self, status: ContainerStatus, message: str, grace: float) -> None:
        if status.name not in self._seen.busy:
            self._actions.append(Stop(status.id, status.name, message, max(grace, LEAST_GRACE)))

    def _try(self, key: str, action: Action) -> None:
        until = self._seen.holds.get(key)
        if until and until > self._seen.now:
            self._wakes.append(until)
        elif key not in self._seen.busy:
            self._actions.append(action)
