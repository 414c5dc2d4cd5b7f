"""Hold what a worker remembers between two looks at its pod: what failed, what waits, what probes said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from netplane.agent.pods import backoff
from netplane.agent.pods.config import TERMINATION_FILE, TERMINATION_POLICY
from netplane.agent.pods.observed import Waiting
from netplane.agent.pods.spec import ProbeKind
from netplane.agent.runtime.protocol import ContainerStatus

MOST_MESSAGE = 4096
MOST_FROM_LOG = 2048
LINES_FROM_LOG = 80
SOON = timedelta(seconds=1)


@dataclass(slots=True)
class Memory:
    """A pod's failures and delays, in memory only: a new agent begins anew, as a new kubelet does."""

    backoff: dict[str, backoff.Entry] = field(default_factory=dict)
    holds: dict[str, datetime] = field(default_factory=dict)
    failures: dict[str, Waiting] = field(default_factory=dict)
    verdicts: dict[tuple[str, ProbeKind], bool] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    failed_at: dict[str, datetime] = field(default_factory=dict)
    resize_error: str = ""

    def restarting(self, name: str, earlier: ContainerStatus | None, now: datetime) -> None:
        """Note that a container is started again."""
        if earlier and earlier.state == "exited" and earlier.finished_at:
            self.backoff[name] = backoff.advance(self.backoff.get(name), earlier.finished_at, now)

    def not_started(self, name: str, waiting: Waiting, now: datetime, *, is_image: bool) -> None:
        """Note why a container did not start, and when it may be tried again."""
        self.failures[name] = waiting
        self.failed_at[name] = now
        if waiting.reason == "CreateContainerConfigError":
            self.holds[name] = now + backoff.FIRST
        elif is_image or waiting.reason == "CreateContainerError":
            key = f"{name}/image"
            self.backoff[key] = backoff.advance(self.backoff.get(key), now, now)
            self.holds[name] = now + self.backoff[key].delay

    def started(self, name: str) -> None:
        """Note that a container runs."""
        for table in (self.failures, self.holds, self.failed_at):
            table.pop(name, None)
        self.backoff.pop(f"{name}/image", None)

    def hold(self, key: str, now: datetime, *, first: float, longest: float) -> None:
        """Put off the next try of what failed: `first` seconds, doubling to `longest`."""
        times = self.retries.get(key, 0)
        self.retries[key] = times + 1
        self.holds[key] = now + timedelta(seconds=min(first * 2**times, longest))

    def done(self, key: str) -> None:
        """Note that what had failed has succeeded."""
        self.retries.pop(key, None)
        self.holds.pop(key, None)

    def pulls_backing_off(self, now: datetime) -> list[str]:
        """Turn ErrImagePull into ImagePullBackOff after a moment, as users know it; return the names of these."""
        turned = []
        for name, waiting in self.failures.items():
            if waiting.reason == "ErrImagePull" and now - self.failed_at[name] >= SOON:
                turned.append(name)
        return turned

    def next_turn(self) -> datetime | None:
        """Return when `pulls_backing_off` has something to say."""
        moments = [self.failed_at[n] + SOON for n, waiting in self.failures.items() if waiting.reason == "ErrImagePull"]
        return min(moments, default=None)

    def clear_holds(self, keys: set[str]) -> None:
        """Let these be tried at once: something that they wait for has changed."""
        for key in keys & self.holds.keys():
            del self.holds[key]

    def learn_messages(self, statuses: tuple[ContainerStatus, ...], log: dict[str, Path]) -> None:
        """Read the last words of containers that ended since, and forget those that are no more."""
        known = {status.id for status in statuses}
        for gone in [id_ for id_ in self.messages if id_ not in known]:
            del self.messages[gone]
        for status in statuses:
            if status.state == "exited" and status.id not in self.messages:
                self.messages[status.id] = last_words(status, log.get(status.id))


def adopted_verdicts(status: Mapping[str, Any], runtime: str) -> dict[tuple[str, ProbeKind], bool]:
    """Return what probes had said of the containers, by the API: a new agent must not take traffic from ready pods."""
    found: dict[tuple[str, ProbeKind], bool] = {}
    for entry in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        container_id = str(entry.get("containerID") or "").removeprefix(f"{runtime}://")
        if entry.get("started"):
            found[container_id, "startup"] = True
        if entry.get("ready"):
            found[container_id, "readiness"] = True
    return found


def last_words(status: ContainerStatus, log: Path | None) -> str:
    """Return the termination message: the file's, or where the policy says so the end of the log of what failed."""
    path = status.annotations.get(TERMINATION_FILE)
    text = _read(Path(path), MOST_MESSAGE) if path else ""
    if text or not log or not status.exit_code:
        return text
    if status.annotations.get(TERMINATION_POLICY) != "FallbackToLogsOnError":
        return ""
    lines = _read(log, 1 << 16, from_end=True).splitlines()[-LINES_FROM_LOG:]
    said = "\n".join(line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3)
    return said[-MOST_FROM_LOG:]


def _read(path: Path, most: int, *, from_end: bool = False) -> str:
    try:
        with path.open("rb") as file:
            if from_end:
                file.seek(max(path.stat().st_size - most, 0))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""
