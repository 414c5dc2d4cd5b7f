"""Keep what the runtime knows in one JSON file an object, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from netplane.agent.runtime.protocol import (
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerState,
    ContainerStatus,
    SandboxStatus,
)

R = TypeVar("R", "SandboxRecord", "ContainerRecord")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that keeps its identity: the pid alone could be another's by now."""

    pid: int = 0
    started: int = 0


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """A sandbox as kept on disk. `netns` is "" on the node's own network."""

    id: str
    attempt: int
    created_at: str
    hostname: str
    cgroup_parent: str
    log_directory: str
    netns: str = ""
    host_pid: bool = False
    host_ipc: bool = False
    share_pid: bool = False
    ips: list[str] = field(default_factory=list)
    pause: Process = Process()
    stopped: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        """The pod's UID."""
        return self.labels.get(POD_UID, "")

    def status(self) -> SandboxStatus:
        """Return it as the protocol's fact."""
        return SandboxStatus(
            id=self.id,
            uid=self.uid,
            namespace=self.labels.get(POD_NAMESPACE, ""),
            name=self.labels.get(POD_NAME, ""),
            attempt=self.attempt,
            state="notready" if self.stopped else "ready",
            created_at=datetime.fromisoformat(self.created_at),
            ips=tuple(self.ips),
            labels=self.labels,
            annotations=self.annotations,
        )


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container as kept on disk. Times are ISO 8601, "" for not yet."""

    id: str
    sandbox_id: str
    uid: str
    name: str
    attempt: int
    state: ContainerState
    created_at: str
    image: str
    image_ref: str
    log_file: str
    log_path: str
    cgroup: str
    stop_signal: str = "SIGTERM"
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    process: Process = Process()
    monitor: Process = Process()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    def status(self) -> ContainerStatus:
        """Return it as the protocol's fact."""
        return ContainerStatus(
            id=self.id,
            sandbox_id=self.sandbox_id,
            name=self.name,
            attempt=self.attempt,
            state=self.state,
            created_at=datetime.fromisoformat(self.created_at),
            started_at=_time(self.started_at),
            finished_at=_time(self.finished_at),
            exit_code=self.exit_code,
            reason=self.reason,
            message=self.message,
            image=self.image,
            image_ref=self.image_ref,
            log_path=self.log_path,
            labels=self.labels,
            annotations=self.annotations,
        )


def write(folder: Path, record: SandboxRecord | ContainerRecord) -> None:
    """Put the record into its folder, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "record.new"
    draft.write_text(json.dumps(dataclasses.asdict(record), sort_keys=True))
    os.replace(draft, folder / "record.json")


def read_all(folder: Path, kind: type[R]) -> dict[str, R]:
    """Return the records below `folder` by id. A folder without a whole record is an object that was never finished."""
    found: dict[str, R] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        try:
            fields: dict[str, Any] = json.loads((path / "record.json").read_text())
            for key in ("pause", "process", "monitor"):
                if key in fields:
                    fields[key] = Process(**fields[key])
            found[path.name] = kind(**fields)
        except (OSError, ValueError, TypeError):
            continue
    return found


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
