"""Find out what this machine lets a runtime do, and reach into its pods' networks."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

from netplane.agent.runtime.embedded.bundle import Host
from netplane.agent.runtime.protocol import RuntimeFailure
from netplane.kernel import cgroup, netns
from netplane.lib import log, sockets

_log = log.get("agent.runtime")

# linux/capability.h, in the order of their numbers
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip


def probe() -> Host:
    """Look at the machine. Raises RuntimeFailure for what makes running pods impossible."""
    if os.geteuid() != 0:
        raise RuntimeFailure("the embedded runtime makes namespaces and mounts: run the agent as root")
    unified = cgroup.is_unified()
    if not unified and (cgroup.MOUNT / "unified" / "cgroup.procs").exists():
        raise RuntimeFailure(
            "this machine has a hybrid of cgroup v1 and v2, which crun refuses: run the agent and the CNI daemon in a "
            "mount namespace of their own in which /sys/fs/cgroup/unified is unmounted, or boot with "
            "systemd.unified_cgroup_hierarchy=1"
        )
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise RuntimeFailure("this kernel has no overlayfs, which images need: modprobe overlay")
    capabilities = _bounding_set()
    return Host(
        capabilities=capabilities,
        unified_cgroups=unified,
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text()),
        can_lower_oom_score="SYS_RESOURCE" in capabilities,
        # On cgroup v2 it takes a BPF program, for which crun 1.8 raises RLIMIT_MEMLOCK.
        can_limit_devices=not unified or "SYS_RESOURCE" in capabilities,
        controllers=_controllers(unified=unified),
        devices=tuple(_devices()),
    )


async def connect_within(network: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port on the loopback of a network namespace, "" for the agent's own. Raises RuntimeFailure."""
    answers = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            return await asyncio.open_connection(sock=await _connected(network, family, (address, port)))
        except OSError as error:
            # The event loop's own text is about its calls; users know the errno's.
            answers.append(os.strerror(error.errno).lower() if error.errno else str(error))
    raise RuntimeFailure(f"failed to connect to localhost:{port} inside the pod's network: {answers[0]}")


async def _connected(network: str, family: int, to: tuple[str, int]) -> socket.socket:
    sock = await asyncio.to_thread(_socket, network, family)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, to)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(network: str, family: int) -> socket.socket:
    if not network:
        return sockets.Lent(family, socket.SOCK_STREAM)
    # A socket stays in the namespace in which it was made.
    return netns.run_in(network, lambda: sockets.Lent(family, socket.SOCK_STREAM))


def _controllers(*, unified: bool) -> frozenset[str]:
    if unified:
        found = frozenset((cgroup.MOUNT / "cgroup.controllers").read_text().split())
    else:
        found = frozenset(name for name in cgroup.CONTROLLERS if (cgroup.MOUNT / name / "cgroup.procs").exists())
    if missing := sorted(set(cgroup.CONTROLLERS) - found):
        _log.warning("cgroup controllers are missing: these limits of pods have no effect", missing=" ".join(missing))
    return found


def _bounding_set() -> frozenset[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    bits = int(next(line for line in lines if line.startswith("CapBnd:")).split()[1], 16)
    return frozenset(name for number, name in enumerate(CAPABILITIES) if bits >> number & 1)


def _devices() -> list[tuple[str, str, int, int]]:
    found = []
    usual = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    for path in sorted(Path("/dev").iterdir()):
        try:
            status = path.lstat()
        except OSError:
            continue
        kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
        if kind and path.name not in usual:
            found.append((str(path), kind, os.major(status.st_rdev), os.minor(status.st_rdev)))
    return found
