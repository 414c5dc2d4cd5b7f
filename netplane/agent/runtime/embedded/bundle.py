"""Write OCI bundles: from what is asked for and what the image says to config.json (OCI runtime-spec 1.0.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netplane.agent.runtime.embedded.users import User
from netplane.agent.runtime.protocol import ContainerConfig, Mount, Resources, Security

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
"""What containerd and Docker give a container that asks for nothing."""
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Host:
    """What this machine lets the runtime do. `capabilities` are those in the agent's bounding set, without CAP_."""

    capabilities: frozenset[str]
    unified_cgroups: bool
    oom_score_adj: int = 0
    can_lower_oom_score: bool = True
    can_limit_devices: bool = True
    controllers: frozenset[str] = frozenset({"cpu", "memory", "pids"})
    devices: tuple[tuple[str, str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to run it (OCI image-spec, config)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container is put: its root file system, its cgroup, the sandbox it joins, its filter of system calls."""

    rootfs: str
    cgroup: str
    hostname: str
    namespaces: Mapping[str, str]
    files: tuple[Mount, ...] = ()
    seccomp: Mapping[str, Any] | None = None


def image_config(document: Mapping[str, Any]) -> ImageConfig:
    """Read an OCI image config, whole or its `config` part alone."""
    part = document.get("config", document) or {}
    return ImageConfig(
        entrypoint=tuple(part.get("Entrypoint") or ()),
        cmd=tuple(part.get("Cmd") or ()),
        env=tuple(part.get("Env") or ()),
        working_dir=part.get("WorkingDir") or "",
        user=str(part.get("User") or ""),
        stop_signal=part.get("StopSignal") or "",
    )


def argv(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """Return the command line: `command` replaces ENTRYPOINT and CMD, `args` alone replaces CMD."""
    if config.command:
        return (*config.command, *config.args)
    return (*image.entrypoint, *(config.args or image.cmd))


def container(config: ContainerConfig, image: ImageConfig, user: User, place: Place, host: Host) -> dict[str, Any]:
    """Return the config.json of a container."""
    security = config.security
    linux: dict[str, Any] = {
        "cgroupsPath": place.cgroup,
        "namespaces": _namespaces(place.namespaces, host),
        "resources": resources(config.resources, host, privileged=security.privileged),
    }
    if place.seccomp is not None:
        linux["seccomp"] = place.seccomp
    if not security.privileged:
        if not security.unmasked:
            linux |= {"maskedPaths": list(MASKED), "readonlyPaths": list(READONLY)}
    else:
        linux["devices"] = [
            {"path": path, "type": kind, "major": major, "minor": minor} for path, kind, major, minor in host.devices
        ]
    return {
        "ociVersion": "1.0.2",
        "process": process(config, image, user, place.hostname, host),
        "root": {"path": place.rootfs, "readonly": security.readonly_rootfs},
        "mounts": mounts((*place.files, *config.mounts), privileged=security.privileged, host=host),
        "linux": linux,
    }


def process(config: ContainerConfig, image: ImageConfig, user: User, hostname: str, host: Host) -> dict[str, Any]:
    """Return the OCI `process`: who runs what, where and with which rights."""
    security = config.security
    capability_names = [f"CAP_{name}" for name in capabilities(security, host)]
    adj = config.resources.oom_score_adj
    groups = sorted({user.gid, *user.groups, *security.supplemental_groups})
    return {
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups},
        "args": list(argv(config, image)),
        "env": environment(config, image, user, hostname),
        "cwd": config.working_dir or image.working_dir or "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capability_names),
        "noNewPrivileges": security.no_new_privileges,
        "oomScoreAdj": adj if host.can_lower_oom_score else max(adj, host.oom_score_adj),
    }


def environment(config: ContainerConfig, image: ImageConfig, user: User, hostname: str) -> list[str]:
    """Return the environment: the image's, the container's over it, and what every process may expect."""
    merged = {"PATH": PATH, "HOSTNAME": hostname}
    if config.tty:
        merged["TERM"] = "xterm"
    merged |= dict(item.partition("=")[::2] for item in image.env)
    merged |= dict(config.env)
    merged.setdefault("HOME", user.home)
    return [f"{key}={value}" for key, value in merged.items()]


def capabilities(security: Security, host: Host) -> list[str]:
    """Return the capabilities, as far as the machine has them to give."""
    if security.privileged:
        return sorted(host.capabilities)
    added = {name.upper().removeprefix("CAP_") for name in security.add_capabilities}
    dropped = {name.upper().removeprefix("CAP_") for name in security.drop_capabilities}
    granted = set() if "ALL" in dropped else set(DEFAULT_CAPABILITIES) - dropped
    granted |= host.capabilities if "ALL" in added else added
    if "ALL" in added:
        granted -= dropped
    return sorted(granted & host.capabilities)


def mounts(wanted: Sequence[Mount], *, privileged: bool, host: Host) -> list[dict[str, Any]]:
    """Return the mounts in the order to make them: the usual ones, then the pod's, outer folders first."""
    rw = "rw" if privileged else "ro"
    usual = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", rw),
    ]
    if host.unified_cgroups:
        usual.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", rw))
    taken = {mount.target.rstrip("/") or "/" for mount in wanted}
    binds = [
        {
            "destination": mount.target,
            "type": "bind",
            "source": mount.source,
            "options": ["rbind", "r" + mount.propagation.removeprefix("r"), "ro" if mount.readonly else "rw"],
        }
        for mount in sorted(wanted, key=lambda mount: mount.target.rstrip("/").count("/"))
    ]
    return [mount for mount in usual if mount["destination"] not in taken] + binds


def resources(wanted: Resources, host: Host, *, privileged: bool = False) -> dict[str, Any]:
    """Return the OCI `resources`: limits, and which devices are open."""
    cpu: dict[str, int] = {}
    if wanted.cpu_shares:
        cpu["shares"] = wanted.cpu_shares
    if wanted.cpu_quota:
        cpu |= {"quota": wanted.cpu_quota, "period": wanted.cpu_period}
    result: dict[str, Any] = {}
    if host.can_limit_devices:
        result["devices"] = [{"allow": privileged, "access": "rwm"}]
    if cpu and "cpu" in host.controllers:
        result["cpu"] = cpu
    if wanted.memory and "memory" in host.controllers:
        result["memory"] = {"limit": wanted.memory}
    if wanted.pids and "pids" in host.controllers:
        result["pids"] = {"limit": wanted.pids}
    return result


def pause(
    rootfs: str, *, hostname: str, cgroup: str, namespaces: Mapping[str, str], sysctls: Mapping[str, str], host: Host
) -> dict[str, Any]:
    """Return the config.json of a sandbox's pause process, which makes the namespaces that `namespaces` lacks."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 65535, "gid": 65535},
            "args": ["/pause"],
            "env": [f"PATH={PATH}"],
            "cwd": "/",
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
            "oomScoreAdj": -998 if host.can_lower_oom_score else host.oom_score_adj,
        },
        "root": {"path": rootfs, "readonly": True},
        "hostname": hostname,
        "mounts": [
            _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755", "size=64k"),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": _namespaces(namespaces, host),
            "resources": resources(Resources(cpu_shares=2), host),
            "sysctl": dict(sysctls),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READONLY),
        },
    }


def _namespaces(paths: Mapping[str, str], host: Host) -> list[dict[str, str]]:
    """A path is joined, "" is made new, and a kind that is not named is the node's."""
    result = [{"type": "mount"}]
    if host.unified_cgroups:
        result.append({"type": "cgroup"})
    for kind, path in sorted(paths.items()):
        result.append({"type": kind, "path": path} if path else {"type": kind})
    return result


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}
