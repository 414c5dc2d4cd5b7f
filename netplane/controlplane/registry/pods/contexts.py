"""What a pod's security context must fulfil, and what else is said of all its containers at once.

Each part is looked at only where it is there: most pods have none of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_ID = "must be between 0 and 2147483647, inclusive"
_SEGMENT = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = rf"({_SEGMENT}[\./])*{_SEGMENT}"
_sysctl = re.compile(_SYSCTL).fullmatch
_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_CHOICES = {
    "fsGroupChangePolicy": ("Always", "OnRootMismatch"),
    "supplementalGroupsPolicy": ("Merge", "Strict"),
    "seLinuxChangePolicy": ("MountOption", "Recursive"),
}
_POLICIES = ("PreemptLowerPriority", "Never")


def context_faults(spec: Object, path: str) -> list[Fault]:
    """Return every fault of what a PodSpec says of the pod as a whole: who it runs as, its gates, its system."""
    found: list[Fault] = []
    for name, judge in _PARTS.items():
        if name in spec:
            found += judge(spec, f"{path}.{name}")
    if spec.get("hostUsers") is False:
        for field, told in (("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")):
            if spec.get(field):
                found.append(faults.forbidden(f"{path}.{told}", "when `pod.Spec.HostUsers` is false"))
    return found


def seccomp_faults(context: Object, path: str) -> list[Fault]:
    """Return the faults of a security context's seccomp profile, a container's too."""
    profile = context.get("seccompProfile")
    if profile is None:
        return []
    at, kind = f"{path}.seccompProfile", profile.get("type", "")
    found: list[Fault] = []
    if not kind:
        found.append(faults.required(f"{at}.type", "type is required when seccompProfile is set"))
    elif kind not in _PROFILES:
        found.append(faults.not_supported(f"{at}.type", kind, _PROFILES))
    local = profile.get("localhostProfile")
    if kind != "Localhost":
        if local is not None:
            detail = "can only be set when seccomp type is Localhost"
            found.append(faults.invalid(f"{at}.localhostProfile", profile, detail))
    elif local is None:
        found.append(faults.required(f"{at}.localhostProfile", "must be set when seccomp type is Localhost"))
    elif local.startswith("/"):
        found.append(faults.invalid(f"{at}.localhostProfile", local, "must be a relative path"))
    elif ".." in local.split("/"):
        found.append(faults.invalid(f"{at}.localhostProfile", local, "must not contain '..'"))
    return found


def app_armor_faults(context: Object, path: str) -> list[Fault]:
    """Return the faults of a security context's AppArmor profile, a container's too."""
    profile = context.get("appArmorProfile")
    if profile is None:
        return []
    at, kind = f"{path}.appArmorProfile", profile.get("type", "")
    local, where = profile.get("localhostProfile"), f"{path}.appArmorProfile.localhostProfile"
    if not kind:
        return [faults.required(f"{at}.type", "type is required when appArmorProfile is set")]
    if kind not in _PROFILES:
        return [faults.not_supported(f"{at}.type", kind, _PROFILES)]
    if kind != "Localhost":
        detail = "can only be set when AppArmor type is Localhost"
        return [] if local is None else [faults.invalid(where, local, detail)]
    if not (local or "").strip():
        return [faults.required(where, "must be set when AppArmor type is Localhost")]
    return [] if local == local.strip() else [faults.invalid(where, local, "must not be padded with whitespace")]


def _security(spec: Object, path: str) -> list[Fault]:
    context = spec["securityContext"]
    if not context:
        return []
    found: list[Fault] = []
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        if not 0 <= context.get(name, 0) < 2**31:
            found.append(faults.invalid(f"{path}.{name}", context[name], _ID))
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        if not 0 <= group < 2**31:
            found.append(faults.invalid(f"{path}.supplementalGroups[{index}]", group, _ID))
    seen: set[str] = set()
    for index, sysctl in enumerate(context.get("sysctls") or ()):
        at, name = f"{path}.sysctls[{index}].name", sysctl.get("name", "")
        if not name:
            found.append(faults.required(at))
        elif len(name) > 253 or not _sysctl(name):
            found.append(faults.invalid(at, name, f"must have at most 253 characters and match regex {_SYSCTL}"))
        elif name in seen:
            found.append(faults.duplicate(at, name))
        seen.add(name)
    for name, supported in _CHOICES.items():
        if name in context and context[name] not in supported:
            found.append(faults.not_supported(f"{path}.{name}", context[name], supported))
    return found + seccomp_faults(context, path) + app_armor_faults(context, path)


def _gates(spec: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    seen: set[str] = set()
    for index, gate in enumerate(spec["schedulingGates"] or ()):
        name = gate.get("name", "")
        found += [faults.invalid(f"{path}[{index}]", name, each) for each in names.qualified(name)]
        if name in seen:
            found.append(faults.duplicate(f"{path}[{index}]", name))
        seen.add(name)
    return found


def _os(spec: Object, path: str) -> list[Fault]:
    name = (spec["os"] or {}).get("name", "")
    if not name:
        return [faults.required(f"{path}.name", "cannot be empty")]
    return [] if name in ("linux", "windows") else [faults.not_supported(path, name, ("linux", "windows"))]


def _preemption(spec: Object, path: str) -> list[Fault]:
    policy = spec["preemptionPolicy"]
    if not policy:
        return [faults.required(path)]
    return [] if policy in _POLICIES else [faults.not_supported(path, policy, _POLICIES)]


_PARTS: dict[str, Callable[[Object, str], list[Fault]]] = {
    "securityContext": _security,
    "schedulingGates": _gates,
    "os": _os,
    "preemptionPolicy": _preemption,
}
