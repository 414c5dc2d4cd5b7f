"""Turn what the agent wants into CRI's messages, and CRI's answers into what the agent knows. Nothing here is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cri_api.v1 import api_pb2 as cri
from google.protobuf import json_format

from netplane.agent.images import reference
from netplane.agent.runtime.embedded.bundle import MASKED, READONLY
from netplane.agent.runtime.protocol import (
    SECCOMP_DEFAULT,
    Condition,
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    ImageStatus,
    Mount,
    Resources,
    RuntimeStatus,
    SandboxConfig,
    SandboxStatus,
    Usage,
)

PROTOCOLS = {"TCP": cri.TCP, "UDP": cri.UDP, "SCTP": cri.SCTP}
PROPAGATIONS = {
    "private": cri.PROPAGATION_PRIVATE,
    "rslave": cri.PROPAGATION_HOST_TO_CONTAINER,
    "rshared": cri.PROPAGATION_BIDIRECTIONAL,
}
STATES: Mapping[int, ContainerState] = {
    cri.CONTAINER_CREATED: "created",
    cri.CONTAINER_RUNNING: "running",
    cri.CONTAINER_EXITED: "exited",
    cri.CONTAINER_UNKNOWN: "unknown",
}


def sandbox_config(config: SandboxConfig) -> cri.PodSandboxConfig:
    """Return the message of a sandbox to run; its containers are asked for with the same one."""
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(
            name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt
        ),
        hostname="" if config.host_network else config.hostname,
        log_directory=str(config.log_directory),
        dns_config=cri.DNSConfig(servers=config.dns.servers, searches=config.dns.searches, options=config.dns.options),
        port_mappings=[
            cri.PortMapping(
                protocol=PROTOCOLS[one.protocol],
                container_port=one.container_port,
                host_port=one.host_port,
                host_ip=one.host_ip,
            )
            for one in config.port_mappings
        ],
        labels=config.labels,
        annotations=config.annotations,
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            sysctls=config.sysctls,
            security_context=cri.LinuxSandboxSecurityContext(
                namespace_options=namespaces(config), privileged=config.privileged
            ),
        ),
    )


def parsed_config(content: dict[str, Any]) -> cri.PodSandboxConfig:
    """Read a sandbox's configuration back from what containerd and CRI-O tell of it when asked for more (`info`)."""
    message = cri.PodSandboxConfig()
    json_format.ParseDict(content, message, ignore_unknown_fields=True)
    return message


def namespaces(config: SandboxConfig) -> cri.NamespaceOption:
    """Return which namespaces are the node's, the pod's or each container's own."""
    pid = cri.NODE if config.host_pid else cri.POD if config.share_pid else cri.CONTAINER
    return cri.NamespaceOption(
        network=cri.NODE if config.host_network else cri.POD,
        pid=pid,
        ipc=cri.NODE if config.host_ipc else cri.POD,
    )


def container_config(
    config: ContainerConfig, options: cri.NamespaceOption, *, unified_cgroups: bool
) -> cri.ContainerConfig:
    """Return the message of a container to make in a sandbox with these namespaces."""
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=cri.ImageSpec(image=config.image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[cri.KeyValue(key=key, value=value) for key, value in config.env],
        mounts=[_mount(mount) for mount in config.mounts],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=cri.LinuxContainerConfig(
            resources=resources(config.resources, unified_cgroups=unified_cgroups),
            security_context=_security(config, options),
        ),
    )


def resources(wanted: Resources, *, unified_cgroups: bool) -> cri.LinuxContainerResources:
    """Return the limits. CRI can limit processes on cgroup v2 only."""
    return cri.LinuxContainerResources(
        cpu_shares=wanted.cpu_shares,
        cpu_quota=wanted.cpu_quota,
        cpu_period=wanted.cpu_period if wanted.cpu_quota else 0,
        memory_limit_in_bytes=wanted.memory,
        oom_score_adj=wanted.oom_score_adj,
        unified={"pids.max": str(wanted.pids)} if wanted.pids and unified_cgroups else {},
    )


def _security(config: ContainerConfig, options: cri.NamespaceOption) -> cri.LinuxContainerSecurityContext:
    security = config.security
    if config.target:
        options = cri.NamespaceOption(network=options.network, pid=cri.TARGET, ipc=options.ipc, target_id=config.target)
    message = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=security.add_capabilities, drop_capabilities=security.drop_capabilities
        ),
        privileged=security.privileged,
        namespace_options=options,
        readonly_rootfs=security.readonly_rootfs,
        supplemental_groups=security.supplemental_groups,
        no_new_privs=security.no_new_privileges,
        masked_paths=() if security.privileged or security.unmasked else MASKED,
        readonly_paths=() if security.privileged or security.unmasked else READONLY,
        seccomp=_seccomp(security.seccomp),
    )
    if security.user is not None:
        message.run_as_user.value = security.user
        if security.group is not None:
            message.run_as_group.value = security.group
    return message


def _seccomp(wanted: str) -> cri.SecurityProfile:
    kinds = cri.SecurityProfile
    if wanted in ("", SECCOMP_DEFAULT):
        return kinds(profile_type=kinds.RuntimeDefault if wanted else kinds.Unconfined)
    return kinds(profile_type=kinds.Localhost, localhost_ref=wanted)


def _mount(mount: Mount) -> cri.Mount:
    return cri.Mount(
        container_path=mount.target,
        host_path=mount.source,
        readonly=mount.readonly,
        propagation=PROPAGATIONS[mount.propagation],
    )


def sandbox_status(message: cri.PodSandboxStatus) -> SandboxStatus:
    """Read what the runtime knows of a sandbox."""
    network = message.network
    ips = (network.ip, *(one.ip for one in network.additional_ips))
    return SandboxStatus(
        id=message.id,
        uid=message.metadata.uid,
        namespace=message.metadata.namespace,
        name=message.metadata.name,
        attempt=message.metadata.attempt,
        state="ready" if message.state == cri.SANDBOX_READY else "notready",
        created_at=_time(message.created_at),
        ips=tuple(ip for ip in ips if ip),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
    )


def container_status(message: cri.ContainerStatus, sandbox_id: str) -> ContainerStatus:
    """Read what the runtime knows of a container."""
    return ContainerStatus(
        id=message.id,
        sandbox_id=sandbox_id,
        name=message.metadata.name,
        attempt=message.metadata.attempt,
        state=STATES[message.state],
        created_at=_time(message.created_at),
        started_at=_time(message.started_at) if message.started_at > 0 else None,
        finished_at=_time(message.finished_at) if message.finished_at > 0 else None,
        exit_code=message.exit_code,
        reason=message.reason,
        message=message.message,
        image=message.image.image,
        image_ref=message.image_ref,
        log_path=message.log_path,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
    )


def image_status(message: cri.Image) -> ImageStatus:
    """Read what the runtime knows of an image: its first name, and the digest that identifies it."""
    names = (*message.repo_tags, *message.repo_digests, message.id)
    uid = message.uid.value if message.HasField("uid") else None if message.username else 0
    return ImageStatus(names[0], message.id, message.size, uid, message.username)


def images_by_name(messages: Iterable[cri.Image]) -> dict[str, ImageStatus]:
    """Return the images by every name they have."""
    found = {}
    for message in messages:
        status = image_status(message)
        for name in (*message.repo_tags, *message.repo_digests, message.id):
            found[name] = status
    return found


def full_name(name: str) -> str:
    """Return the name under which a runtime lists an image: with its host and tag; a bare digest stays as it is."""
    try:
        return name if name.startswith("sha256:") else reference.normalize(name)
    except reference.BadReference:
        return name


def runtime_status(message: cri.RuntimeStatus) -> RuntimeStatus:
    """Read RuntimeReady and NetworkReady."""
    found = {one.type: Condition(one.status, one.reason, one.message) for one in message.conditions}
    unknown = Condition(False, "Unknown", "the runtime does not say")
    return RuntimeStatus(found.get("RuntimeReady", unknown), found.get("NetworkReady", unknown))


def usage(message: cri.ContainerStats) -> Usage:
    """Read what a container uses."""
    memory = message.memory
    return Usage(
        cpu_ns=message.cpu.usage_core_nano_seconds.value,
        memory=memory.usage_bytes.value or memory.working_set_bytes.value,
        working_set=memory.working_set_bytes.value,
    )


def log_file(status: ContainerStatus) -> Path:
    """Return where a container's log is."""
    return Path(status.log_path)


def _time(nanoseconds: int) -> datetime:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
