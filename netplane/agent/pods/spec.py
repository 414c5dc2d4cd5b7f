"""Read pods: what the agent acts on, as frozen facts. Volumes and environment stay as written, for their own rooms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from netplane.kube import meta
from netplane.kube.types import Object
from netplane.lib import clock

RestartPolicy = Literal["Always", "OnFailure", "Never"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
ProbeKind = Literal["liveness", "readiness", "startup"]

MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class HttpGet:
    """An HTTP request to make; `port` may be a port's name, `host` "" for the pod."""

    path: str
    port: int | str
    host: str = ""
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """A connection to make."""

    port: int | str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Grpc:
    """A gRPC health check to make."""

    port: int
    service: str = ""


@dataclass(frozen=True, slots=True)
class Exec:
    """A command to run in the container."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sleep:
    """A wait."""

    seconds: float


Handler = HttpGet | TcpSocket | Grpc | Exec | Sleep


@dataclass(frozen=True, slots=True)
class Probe:
    """A check and its timing, in seconds. `grace` replaces the pod's own after a failure, None when it does not."""

    handler: Handler
    initial_delay: float = 0
    limit: float = 1
    period: float = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """One container as its pod wants it. An ephemeral one sees the processes of the container named `target`."""

    name: str
    image: str
    pull_policy: PullPolicy
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    is_init: bool = False
    is_sidecar: bool = False
    is_ephemeral: bool = False
    target: str = ""
    ports: tuple[Mapping[str, Any], ...] = ()
    env: tuple[Mapping[str, Any], ...] = ()
    env_from: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    requests: tuple[tuple[str, str], ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    resize_policies: tuple[tuple[str, str], ...] = ()
    security: tuple[tuple[str, Any], ...] = ()
    probes: tuple[tuple[ProbeKind, Probe], ...] = ()
    post_start: Handler | None = None
    pre_stop: Handler | None = None
    termination_path: str = "/dev/termination-log"
    termination_policy: str = "File"

    def probe(self, kind: ProbeKind) -> Probe | None:
        """Return its probe of this kind, if it has one."""
        return dict(self.probes).get(kind)

    def port(self, port: int | str) -> int:
        """Return the number of a port given by number or name. Raises ValueError."""
        if isinstance(port, int) or str(port).isdigit():
            return int(port)
        for entry in self.ports:
            if entry.get("name") == port:
                return int(entry["containerPort"])
        raise ValueError(f"couldn't find port: {port!r}")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node. `obj` is the object it was read from, for what only few ask."""

    obj: Object
    uid: str
    namespace: str
    name: str
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...]
    restart_policy: RestartPolicy
    grace: int
    host_network: bool
    deleted_at: datetime | None = None
    deletion_grace: int | None = None
    ephemeral_containers: tuple[Container, ...] = ()

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec as written."""
        found: Mapping[str, Any] = self.obj.get("spec") or {}
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        """The status as the API has it."""
        found: Mapping[str, Any] = self.obj.get("status") or {}
        return found

    @property
    def full_name(self) -> str:
        """`web_default(uid)`, as the kubelet's messages have it."""
        return f"{self.name}_{self.namespace}({self.uid})"

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """The init containers, then the others; without those that were added for debugging."""
        return self.init_containers + self.containers

    def container(self, name: str) -> Container | None:
        """Return the container of that name."""
        return next((c for c in self.all_containers + self.ephemeral_containers if c.name == name), None)


def read(obj: Object) -> Pod:
    """Read a pod that the API server has defaulted and validated; what is missing has the documented default."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    deleted = metadata.get("deletionTimestamp")
    grace = spec.get("terminationGracePeriodSeconds")
    return Pod(
        obj=obj,
        uid=meta.uid(obj),
        namespace=metadata.get("namespace") or "default",
        name=metadata["name"],
        containers=tuple(_container(c) for c in spec.get("containers") or ()),
        init_containers=tuple(_container(c, is_init=True) for c in spec.get("initContainers") or ()),
        ephemeral_containers=tuple(
            dataclasses.replace(_container(c), is_ephemeral=True, target=c.get("targetContainerName") or "")
            for c in spec.get("ephemeralContainers") or ()
        ),
        restart_policy=spec.get("restartPolicy") or "Always",
        grace=30 if grace is None else int(grace),
        host_network=bool(spec.get("hostNetwork")),
        deleted_at=clock.parse(deleted) if deleted else None,
        deletion_grace=metadata.get("deletionGracePeriodSeconds"),
    )


def _container(entry: Mapping[str, Any], *, is_init: bool = False) -> Container:
    lifecycle = entry.get("lifecycle") or {}
    resources = entry.get("resources") or {}
    kinds: tuple[ProbeKind, ...] = ("liveness", "readiness", "startup")
    return Container(
        name=entry["name"],
        image=entry.get("image") or "",
        pull_policy=entry.get("imagePullPolicy") or _default_policy(entry.get("image") or ""),
        command=tuple(entry.get("command") or ()),
        args=tuple(entry.get("args") or ()),
        working_dir=entry.get("workingDir") or "",
        tty=bool(entry.get("tty")),
        stdin=bool(entry.get("stdin")),
        stdin_once=bool(entry.get("stdinOnce")),
        is_init=is_init,
        is_sidecar=is_init and entry.get("restartPolicy") == "Always",
        ports=tuple(entry.get("ports") or ()),
        env=tuple(entry.get("env") or ()),
        env_from=tuple(entry.get("envFrom") or ()),
        mounts=tuple(entry.get("volumeMounts") or ()),
        requests=tuple(sorted((k, str(v)) for k, v in (resources.get("requests") or {}).items())),
        limits=tuple(sorted((k, str(v)) for k, v in (resources.get("limits") or {}).items())),
        resize_policies=tuple(
            (each["resourceName"], each["restartPolicy"]) for each in entry.get("resizePolicy") or ()
        ),
        security=tuple(sorted((entry.get("securityContext") or {}).items())),
        probes=tuple((kind, _probe(entry[f"{kind}Probe"])) for kind in kinds if entry.get(f"{kind}Probe")),
        post_start=_handler(lifecycle["postStart"]) if lifecycle.get("postStart") else None,
        pre_stop=_handler(lifecycle["preStop"]) if lifecycle.get("preStop") else None,
        termination_path=entry.get("terminationMessagePath") or "/dev/termination-log",
        termination_policy=entry.get("terminationMessagePolicy") or "File",
    )


def _default_policy(image: str) -> PullPolicy:
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if "@" not in image and tag in ("", "latest") else "IfNotPresent"


def _probe(entry: Mapping[str, Any]) -> Probe:
    return Probe(
        handler=_handler(entry),
        initial_delay=entry.get("initialDelaySeconds") or 0,
        limit=entry.get("timeoutSeconds") or 1,
        period=entry.get("periodSeconds") or 10,
        success_threshold=entry.get("successThreshold") or 1,
        failure_threshold=entry.get("failureThreshold") or 3,
        grace=entry.get("terminationGracePeriodSeconds"),
    )


def _handler(entry: Mapping[str, Any]) -> Handler:
    if http := entry.get("httpGet"):
        headers = tuple((h["name"], h["value"]) for h in http.get("httpHeaders") or ())
        return HttpGet(
            http.get("path") or "/", http["port"], http.get("host") or "", http.get("scheme") or "HTTP", headers
        )
    if tcp := entry.get("tcpSocket"):
        return TcpSocket(tcp["port"], tcp.get("host") or "")
    if grpc := entry.get("grpc"):
        return Grpc(int(grpc["port"]), grpc.get("service") or "")
    if (sleep := entry.get("sleep")) is not None:
        return Sleep(float(sleep.get("seconds") or 0))
    return Exec(tuple((entry.get("exec") or {}).get("command") or ()))
