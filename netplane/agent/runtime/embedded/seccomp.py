"""Which system calls a container may make: the runtime's own profile, or one that lies on the node.

The profile is in the form of the OCI runtime-spec 1.0.2 (`linux.seccomp`), also that of a file on the node. What
`RuntimeDefault` takes away is what Docker's documentation names as blocked, and as there a capability that a container
is given brings the calls back that it is for. All other calls are let through, so that new ones need no new list.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from netplane.agent.runtime.protocol import SECCOMP_DEFAULT, RuntimeFailure, Security

_EPERM, _ENOSYS = 1, 38
_NEVER = (
    "_sysctl", "add_key", "create_module", "get_kernel_syms", "io_uring_enter", "io_uring_register", "io_uring_setup",
    "keyctl", "nfsservctl", "query_module", "request_key", "sysfs", "uselib", "userfaultfd", "ustat", "vm86", "vm86old",
)  # fmt: skip
_ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "BPF": ("bpf",),
    "DAC_READ_SEARCH": ("open_by_handle_at",),
    "PERFMON": ("perf_event_open",),
    "SYSLOG": ("syslog",),
    "SYS_ADMIN": (
        "bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount", "mount_setattr",
        "move_mount", "open_tree", "perf_event_open", "pivot_root", "quotactl", "quotactl_fd", "setdomainname",
        "sethostname", "setns", "swapoff", "swapon", "syslog", "umount", "umount2", "unshare",
    ),
    "SYS_BOOT": ("kexec_file_load", "kexec_load", "reboot"),
    "SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "SYS_NICE": ("get_mempolicy", "mbind", "move_pages", "set_mempolicy"),
    "SYS_PACCT": ("acct",),
    "SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"),
    "SYS_RAWIO": ("ioperm", "iopl"),
    "SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "SYS_TTY_CONFIG": ("vhangup",),
}  # fmt: skip
_NEW_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID and -NET of clone(2)."""
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}


def wanted(security: Security, capabilities: Collection[str], machine: str) -> dict[str, Any] | None:
    """Return the filter a container gets, or None; `machine` is as uname(1) says it. Raises RuntimeFailure."""
    if security.privileged or not security.seccomp:
        return None
    if security.seccomp == SECCOMP_DEFAULT:
        return default(capabilities, machine)
    try:
        found = json.loads(Path(security.seccomp).read_bytes())
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"cannot load seccomp profile {security.seccomp!r}: {error}") from error
    if not isinstance(found, dict) or "defaultAction" not in found:
        raise RuntimeFailure(f"cannot load seccomp profile {security.seccomp!r}: it has no defaultAction")
    return found


def default(capabilities: Collection[str], machine: str) -> dict[str, Any]:
    """Return the runtime's own profile for a container with these capabilities, named without CAP_."""
    given = {name for capability in capabilities for name in _ONLY_WITH.get(capability, ())}
    denied = {name for names in _ONLY_WITH.values() for name in names} - given
    rules = [_deny(sorted(denied | set(_NEVER)), _EPERM)]
    if "SYS_ADMIN" not in capabilities:
        # What clone3 is told lies in memory, where a filter cannot look: libraries fall back to clone.
        rules += [_deny(["clone"], _EPERM, flag) for flag in _NEW_NAMESPACES]
        rules.append(_deny(["clone3"], _ENOSYS))
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    return profile | ({"architectures": list(_ARCHITECTURES[machine])} if machine in _ARCHITECTURES else {})


def _deny(names: list[str], errno: int, flag: int = 0) -> dict[str, Any]:
    rule = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    if flag:
        rule["args"] = [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]
    return rule
