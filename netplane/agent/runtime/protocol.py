"""Name what the agent asks of whatever runs containers: the operations and facts of CRI v1 (k8s.io/cri-api).

A runtime sets up the sandbox's network itself, as CRI has it. Times are UTC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

SandboxState = Literal["ready", "notready"]
ContainerState = Literal["created", "running", "exited", "unknown"]
Propagation = Literal["private", "rslave", "rshared"]

POD_UID = "io.kubernetes.pod.uid"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"


class RuntimeFailure(Exception):
    """A runtime could not do what was asked; the message is for the user.

    RuntimeFailure
    └── ImageMissing     the image is not in the node's store
    """


class ImageMissing(RuntimeFailure):
    """No image has this reference."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the node that leads to the sandbox. `protocol` is TCP, UDP or SCTP."""

    container_port: int
    host_port: int
    protocol: str = "TCP"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Dns:
    """The lines of the sandbox's resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits in cgroup terms; 0 is unlimited. `memory` is in bytes, `cpu_quota` in microseconds a `cpu_period`."""

    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 100_000
    memory: int = 0
    pids: int = 0
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """One sandbox to run. `attempt` counts the sandboxes of one pod; `cgroup_parent` is the pod's cgroup.

    `privileged` says that one of its containers is.
    """

    uid: str
    namespace: str
    name: str
    attempt: int
    hostname: str
    cgroup_parent: str
    log_directory: Path
    dns: Dns = Dns()
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_pid: bool = False
    privileged: bool = False
    port_mappings: tuple[PortMapping, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the node inside the container."""

    source: str
    target: str
    readonly: bool = False
    propagation: Propagation = "private"


SECCOMP_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Security:
    """Who the container's process is and what it may do. `user` None means what the image says.

    `seccomp` is SECCOMP_DEFAULT for the runtime's own filter of system calls, the path of a profile on the node, or ""
    for none. `unmasked` shows all of /proc.
    """

    user: int | None = None
    group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    privileged: bool = False
    readonly_rootfs: bool = False
    no_new_privileges: bool = False
    seccomp: str = ""
    unmasked: bool = False


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """One container to make. Empty `command` and `args` mean what the image says; `log_path` is below log_directory.

    `target` is the id of the container whose processes it shares, "" for none.
    """

    name: str
    attempt: int
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    target: str = ""
    resources: Resources = Resources()
    security: Security = Security()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What a runtime knows of a sandbox. `ips` is empty on the node's own network."""

    id: str
    uid: str
    namespace: str
    name: str
    attempt: int
    state: SandboxState
    created_at: datetime
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What a runtime knows of a container. `reason` is its own word for the end: Completed, Error, OOMKilled."""

    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: ContainerState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    log_path: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """An image that the runtime has. `uid` and `username` are its USER, whichever it names."""

    reference: str
    digest: str
    size: int = 0
    uid: int | None = None
    username: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container or pod uses now. `cpu_ns` is a total since its start."""

    cpu_ns: int = 0
    memory: int = 0
    working_set: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether a part of the runtime is ready, and why not."""

    ok: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """RuntimeReady and NetworkReady of CRI."""

    runtime: Condition
    network: Condition


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command in a container printed, and its exit code. `timed_out` means that it was killed."""

    exit_code: int
    output: bytes
    timed_out: bool = False


Pipe = Literal["stdout", "stderr"]
Sink = Callable[[Pipe, bytes], Awaitable[None]]


class Stream(Protocol):
    """A process, or the container's own, that somebody is attached to. Without tty stdout and stderr are apart."""

    async def forward(self, sink: Sink) -> None:
        """Hand on what it prints until it ends or closes its output."""
        ...

    async def write(self, data: bytes) -> None:
        """Give it input; without stdin nothing happens."""
        ...

    async def close_input(self) -> None:
        """End its input."""
        ...

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; without tty nothing happens."""
        ...

    async def wait(self) -> int | None:
        """Return its exit code; None when only the attachment ended."""
        ...

    async def close(self) -> None:
        """Leave. An exec'd process that still runs is killed, an attached container is not."""
        ...


class Runtime(Protocol):
    """What runs pods. Stopping and removing what is not there succeeds. Failures are RuntimeFailure."""

    name: str
    version: str

    async def status(self) -> RuntimeStatus: ...
    async def run_sandbox(self, config: SandboxConfig) -> str: ...
    async def stop_sandbox(self, sandbox_id: str) -> None: ...
    async def remove_sandbox(self, sandbox_id: str) -> None: ...
    def sandboxes(self, uid: str = "") -> Sequence[SandboxStatus]: ...
    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str: ...
    async def start_container(self, container_id: str) -> None: ...
    async def stop_container(self, container_id: str, grace: float) -> None: ...
    async def update_container(self, container_id: str, resources: Resources) -> None: ...
    async def remove_container(self, container_id: str) -> None: ...
    def containers(self, uid: str = "") -> Sequence[ContainerStatus]: ...
    async def exec_sync(self, container_id: str, argv: Sequence[str], limit: float) -> Completed: ...
    async def exec(self, container_id: str, argv: Sequence[str], *, tty: bool, stdin: bool) -> Stream: ...
    async def attach(self, container_id: str, *, stdin: bool) -> Stream: ...
    async def connect(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port on the sandbox's loopback."""
        ...

    async def reopen_log(self, container_id: str) -> None: ...
    def log_file(self, container_id: str) -> Path: ...
    def usage(self, container_id: str) -> Usage: ...
    def image(self, reference: str) -> ImageStatus | None: ...
    def list_images(self) -> Sequence[ImageStatus]: ...
    async def pull(self, reference: str) -> ImageStatus: ...
    def changes(self) -> AsyncIterator[str]:
        """Yield the pod UIDs in which something ended by itself."""
        ...
