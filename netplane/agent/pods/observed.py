"""Hold what is known of a pod at one moment, and the questions that both deciding and reporting ask of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from netplane.agent.pods.backoff import Table
from netplane.agent.pods.spec import Container, Pod, ProbeKind
from netplane.agent.runtime.protocol import ContainerStatus, SandboxStatus

HASH = "io.kubernetes.container.hash"

Verb = str
"""What is being done at a key: run (a sandbox), prepare (volumes), start, stop, remove, finish."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running: as in status.containerStatuses[].state.waiting."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the node ended the pod: status.reason and status.message of a Failed pod."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Share:
    """The cpu and memory of a container: what it was promised, and what it may use at most."""

    requests: tuple[tuple[str, str], ...] = ()
    limits: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """A pod, what the runtime has of it (the newest first), and what the worker remembers.

    `probes` holds verdicts by container id; `holds` the moment before which a key is not tried again; `busy` what is
    being done; `gone` that the API has no such pod any more. `applied` has, by container id, what its cgroup goes by;
    `pending` says why the pod has not been allotted all that it was resized to, `resize_error` what went wrong last.
    """

    pod: Pod
    now: datetime
    sandboxes: tuple[SandboxStatus, ...] = ()
    containers: tuple[ContainerStatus, ...] = ()
    probes: Mapping[tuple[str, ProbeKind], bool] = field(default_factory=dict)
    volumes_ready: bool = False
    backoff: Table = field(default_factory=dict)
    holds: Mapping[str, datetime] = field(default_factory=dict)
    busy: Mapping[str, Verb] = field(default_factory=dict)
    started_at: datetime | None = None
    gone: bool = False
    applied: Mapping[str, Share] = field(default_factory=dict)
    pending: Waiting | None = None
    resize_error: str = ""

    @property
    def sandbox(self) -> SandboxStatus | None:
        """The sandbox in which containers can be run, if there is one."""
        newest = self.sandboxes[0] if self.sandboxes else None
        return newest if newest and newest.state == "ready" else None

    def latest(self, name: str) -> ContainerStatus | None:
        """Return the newest container of that name, in whichever sandbox."""
        return next((s for s in self.containers if s.name == name), None)

    def current(self, name: str) -> ContainerStatus | None:
        """Return the newest container of that name in the sandbox there is."""
        sandbox = self.sandbox
        return next((s for s in self.containers if s.name == name and sandbox and s.sandbox_id == sandbox.id), None)

    def is_started(self, container: Container, status: ContainerStatus | None) -> bool:
        """Whether it runs and its startup probe, if it has one, has succeeded."""
        if status is None or status.state != "running":
            return False
        return container.probe("startup") is None or self.probes.get((status.id, "startup"), False)

    def is_ready(self, container: Container, status: ContainerStatus | None) -> bool:
        """Whether it is started and its readiness probe, if it has one, has succeeded."""
        if status is None or not self.is_started(container, status):
            return False
        return container.probe("readiness") is None or self.probes.get((status.id, "readiness"), False)


def is_running(status: ContainerStatus | None) -> bool:
    """Whether something of the container is alive, or may be."""
    return status is not None and status.state in ("running", "created", "unknown")


def restarts(pod: Pod, container: Container, status: ContainerStatus) -> bool:
    """Whether a container that ended is to be started again."""
    if container.is_sidecar or (pod.restart_policy == "Always" and not container.is_init):
        return True
    return pod.restart_policy != "Never" and status.exit_code != 0


def verdict(seen: Observed) -> Verdict | None:
    """Return why the node must end the pod, None when it need not."""
    reason = seen.pod.status.get("reason")
    if seen.pod.status.get("phase") == "Failed" and reason:
        return Verdict(str(reason), str(seen.pod.status.get("message") or ""))
    if (end := deadline(seen)) and seen.now >= end:
        return Verdict("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
    return None


def deadline(seen: Observed) -> datetime | None:
    """Return when activeDeadlineSeconds are over."""
    seconds = seen.pod.spec.get("activeDeadlineSeconds")
    return seen.started_at + timedelta(seconds=seconds) if seconds and seen.started_at else None


def is_finished(seen: Observed) -> bool:
    """Whether nothing of the pod is to run any more, though nobody deletes it."""
    pod = seen.pod
    if pod.status.get("phase") in ("Succeeded", "Failed") or verdict(seen):
        return True
    if any(_failed_for_good(seen, container) for container in pod.init_containers):
        return True
    statuses = [(container, seen.latest(container.name)) for container in pod.containers]
    return all(s is not None and s.state == "exited" and not restarts(pod, c, s) for c, s in statuses)


def _failed_for_good(seen: Observed, container: Container) -> bool:
    status = seen.current(container.name)
    if container.is_sidecar or status is None or status.state != "exited" or status.exit_code == 0:
        return False
    return seen.pod.restart_policy == "Never"


def content_hash(container: Container) -> str:
    """Return what tells that a running container is not the one wanted any more: only name and image count."""
    return hashlib.sha256(f"{container.name}\n{container.image}".encode()).hexdigest()[:8]
