"""Turn a pod and what surrounds it into what a runtime is asked for: sandbox and container configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netplane.agent.pods import environment, qos
from netplane.agent.pods.environment import ConfigError
from netplane.agent.pods.observed import HASH, content_hash
from netplane.agent.pods.spec import Container, Pod
from netplane.agent.runtime.protocol import (
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    SECCOMP_DEFAULT,
    ContainerConfig,
    Dns,
    ImageStatus,
    Mount,
    PortMapping,
    Propagation,
    SandboxConfig,
    Security,
)

CONTAINER_NAME = "io.kubernetes.container.name"
TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"
TERMINATION_FILE = "netplane/termination-file"
GRACE = "io.kubernetes.pod.terminationGracePeriod"
MOST_SEARCHES = 32
PROPAGATIONS: Mapping[str, Propagation] = {"HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What every pod of this node gets from it. `resolv` is the node's own resolv.conf."""

    name: str
    ips: tuple[str, ...]
    cgroup_root: str
    pods_folder: Path
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv: Dns = field(default_factory=Dns)
    memory: int = 0
    pids_per_container: int = 0
    allocatable: Mapping[str, str] | None = None

    def folder(self, uid: str) -> Path:
        """Return where all files of a pod are."""
        return self.pods_folder / uid

    @property
    def seccomp_folder(self) -> Path:
        """Where the profiles lie that pods name as `localhostProfile`."""
        return self.pods_folder.parent / "seccomp"


def hostname(pod: Pod, node: NodeFacts) -> str:
    """Return the name that the pod's processes see."""
    if pod.host_network:
        return node.name
    return str(pod.spec.get("hostname") or pod.name)[:63].rstrip("-.")


def sandbox(pod: Pod, node: NodeFacts, attempt: int) -> SandboxConfig:
    """Return the configuration of the pod's sandbox."""
    context = pod.spec.get("securityContext") or {}
    return SandboxConfig(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        attempt=attempt,
        hostname=hostname(pod, node),
        cgroup_parent=f"{node.cgroup_root}/pod{pod.uid}",
        log_directory=node.folder(pod.uid) / "logs",
        dns=dns(pod, node),
        host_network=pod.host_network,
        host_pid=bool(pod.spec.get("hostPID")),
        host_ipc=bool(pod.spec.get("hostIPC")),
        share_pid=bool(pod.spec.get("shareProcessNamespace")),
        privileged=any(dict(one.security).get("privileged") for one in pod.all_containers),
        port_mappings=() if pod.host_network else _port_mappings(pod),
        sysctls={entry["name"]: str(entry["value"]) for entry in context.get("sysctls") or ()},
        labels={POD_UID: pod.uid, POD_NAME: pod.name, POD_NAMESPACE: pod.namespace},
        annotations={GRACE: str(pod.grace)},
    )


def dns(pod: Pod, node: NodeFacts) -> Dns:
    """Return the pod's resolv.conf by dnsPolicy and dnsConfig."""
    policy = pod.spec.get("dnsPolicy") or "ClusterFirst"
    uses_cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.host_network)
    result = Dns() if policy == "None" else node.resolv
    if uses_cluster and node.cluster_dns:
        domain = node.cluster_domain
        searches = (f"{pod.namespace}.svc.{domain}", f"svc.{domain}", domain, *node.resolv.searches)
        result = Dns(node.cluster_dns, searches, ("ndots:5",))
    wanted = pod.spec.get("dnsConfig") or {}
    options = dict(option.partition(":")[::2] for option in result.options)
    options |= {option["name"]: option.get("value") or "" for option in wanted.get("options") or ()}
    return Dns(
        servers=_unique((*result.servers, *(wanted.get("nameservers") or ())))[:3],
        searches=_unique((*result.searches, *(wanted.get("searches") or ())))[:MOST_SEARCHES],
        options=tuple(f"{name}:{value}" if value else name for name, value in options.items()),
    )


def resolv(text: str) -> Dns:
    """Read a resolv.conf (resolv.conf(5))."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for words in (line.split() for line in text.splitlines()):
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return Dns(tuple(servers), searches, tuple(options))


def hosts(pod: Pod, node: NodeFacts, ips: Sequence[str]) -> str:
    """Return the pod's /etc/hosts, as the kubelet writes it."""
    name = hostname(pod, node)
    subdomain = pod.spec.get("subdomain")
    full = f"{name}.{subdomain}.{pod.namespace}.svc.{node.cluster_domain}\t" if subdomain else ""
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
        *(f"{ip}\t{full}{name}" for ip in ips),
    ]
    aliases = pod.spec.get("hostAliases") or ()
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((alias["ip"], *(alias.get("hostnames") or ()))) for alias in aliases]
    return "\n".join(lines) + "\n"


def container(
    pod: Pod,
    wanted: Container,
    node: NodeFacts,
    *,
    attempt: int,
    env: Sequence[tuple[str, str]],
    mounts: Sequence[Mount],
    image: ImageStatus,
    termination_file: Path,
    target: str = "",
) -> ContainerConfig:
    """Return the configuration of a container. Raises ConfigError for what its security context forbids."""
    variables = dict(env)
    return ContainerConfig(
        name=wanted.name,
        attempt=attempt,
        image=wanted.image,
        command=tuple(environment.expand(word, variables) for word in wanted.command),
        args=tuple(environment.expand(word, variables) for word in wanted.args),
        working_dir=wanted.working_dir,
        env=tuple(env),
        mounts=(*mounts, Mount(str(termination_file), wanted.termination_path)),
        log_path=f"{wanted.name}/{attempt}.log",
        stdin=wanted.stdin,
        stdin_once=wanted.stdin_once,
        tty=wanted.tty,
        target=target,
        resources=qos.limits(pod, wanted, node_memory=node.memory, pids=node.pids_per_container),
        security=security(pod, wanted, image, node.seccomp_folder),
        labels={CONTAINER_NAME: wanted.name, POD_UID: pod.uid, POD_NAME: pod.name, POD_NAMESPACE: pod.namespace},
        annotations={
            HASH: content_hash(wanted),
            TERMINATION_PATH: wanted.termination_path,
            TERMINATION_POLICY: wanted.termination_policy,
            TERMINATION_FILE: str(termination_file),
            GRACE: str(pod.grace),
        },
    )


def security(pod: Pod, wanted: Container, image: ImageStatus, profiles: Path) -> Security:
    """Return who the container runs as and what it may do; its context goes before the pod's. Raises ConfigError."""
    of_pod: Mapping[str, Any] = pod.spec.get("securityContext") or {}
    own = dict(wanted.security)
    user, group = own.get("runAsUser", of_pod.get("runAsUser")), own.get("runAsGroup", of_pod.get("runAsGroup"))
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
        _check_not_root(pod, wanted, user, image)
    groups = tuple(of_pod.get("supplementalGroups") or ())
    if of_pod.get("fsGroup") is not None:
        groups += (int(of_pod["fsGroup"]),)
    capabilities = own.get("capabilities") or {}
    return Security(
        user=user,
        group=group,
        supplemental_groups=groups,
        add_capabilities=tuple(capabilities.get("add") or ()),
        drop_capabilities=tuple(capabilities.get("drop") or ()),
        privileged=bool(own.get("privileged")),
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        seccomp=_seccomp(own.get("seccompProfile") or of_pod.get("seccompProfile") or {}, profiles),
        unmasked=own.get("procMount") == "Unmasked",
    )


def _seccomp(profile: Mapping[str, Any], profiles: Path) -> str:
    """Return what the runtime is told of a `seccompProfile`; without one there is no filter, as the kubelet has it."""
    match profile.get("type"):
        case "RuntimeDefault":
            return SECCOMP_DEFAULT
        case "Localhost":
            path = profiles / str(profile.get("localhostProfile") or "")
            if not path.is_relative_to(profiles) or ".." in path.parts or path == profiles:
                said = profile.get("localhostProfile")
                raise ConfigError(f"seccompProfile.localhostProfile: {said!r} is not a path below {profiles}")
            return str(path)
    return ""


def propagation(mount: Mapping[str, Any]) -> Propagation:
    """Return how mounts made inside and outside reach each other."""
    return PROPAGATIONS.get(str(mount.get("mountPropagation") or ""), "private")


def _check_not_root(pod: Pod, wanted: Container, user: int | None, image: ImageStatus) -> None:
    where = f'(pod: "{pod.name}_{pod.namespace}({pod.uid})", container: {wanted.name})'
    if user == 0:
        raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
    if user is None and image.username:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({image.username}), cannot verify user is "
            f"non-root {where}"
        )
    if user is None and image.uid == 0:
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")


def _port_mappings(pod: Pod) -> tuple[PortMapping, ...]:
    return tuple(
        PortMapping(port["containerPort"], port["hostPort"], port.get("protocol") or "TCP", port.get("hostIP") or "")
        for container in pod.all_containers
        for port in container.ports
        if port.get("hostPort")
    )


def _unique(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
