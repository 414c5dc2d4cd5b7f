"""What the subresources `ephemeralcontainers` and `resize` may change of a pod: that alone.

Source: k8s.io/kubernetes/pkg/registry/core/pod/strategy.go, ValidatePodEphemeralContainersUpdate, ValidatePodResize.
"""

from __future__ import annotations

import copy

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.admission import quality
from netplane.controlplane.registry.types import ResourceType
from netplane.kube import quantity
from netplane.kube.types import Object

_ADDED = "ephemeralContainers"
_RESIZED = frozenset({"cpu", "memory"})


def ephemeral_containers(of: ResourceType, new: Object, old: Object) -> list[Fault]:
    """Make `new` the old pod with more ephemeral containers; return every fault."""
    wanted = (new.get("spec") or {}).get(_ADDED) or []
    _as_before(new, old)
    new["spec"][_ADDED] = wanted
    of.default(new)
    now = {each.get("name"): each for each in new["spec"][_ADDED]}
    at = f"spec.{_ADDED}"
    found: list[Fault] = []
    for each in old["spec"].get(_ADDED) or ():
        kept = now.get(each["name"])
        if kept is None:
            detail = f'existing ephemeral containers "{each["name"]}" may not be removed'
            found.append(faults.forbidden(at, detail))
        elif kept != each:
            detail = f'existing ephemeral containers "{each["name"]}" may not be changed'
            found.append(faults.forbidden(at, detail))
    return found + of.validate(new)


def resize(of: ResourceType, new: Object, old: Object) -> list[Fault]:
    """Make `new` the old pod with other requests and limits of CPU and memory; return every fault."""
    wanted = new.get("spec") or {}
    _as_before(new, old)
    found: list[Fault] = []
    for kind in ("containers", "initContainers"):
        asked = {each.get("name"): each.get("resources") for each in wanted.get(kind) or ()}
        for index, container in enumerate(new["spec"].get(kind) or ()):
            resources = asked.get(container["name"], container.get("resources"))
            before = container.get("resources") or {}
            if (resources or {}) != before:
                at = f"spec.{kind}[{index}].resources"
                found += _others(resources or {}, before, at) or _less_memory(container, resources or {}, before, at)
                container["resources"] = resources or {}
    of.default(new)
    held = (old.get("status") or {}).get("qosClass")
    if held and quality(new["spec"]) != held:
        detail = "Pod QOS Class may not change as a result of resizing"
        found.append(faults.invalid("spec", held, detail))
    if new["spec"] != old["spec"]:
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
    return found + of.validate(new)


def _others(resources: Object, before: Object, path: str) -> list[Fault]:
    for kind in ("requests", "limits"):
        now, held = resources.get(kind) or {}, before.get(kind) or {}
        changed = {name for name in {*now, *held} if now.get(name) != held.get(name)}
        if changed - _RESIZED:
            return [faults.forbidden(path, "only cpu and memory resources are mutable")]
        if set(held) - set(now):
            return [faults.forbidden(path, f"resource {kind} cannot be removed")]
    return []


def _less_memory(container: Object, resources: Object, before: Object, path: str) -> list[Fault]:
    """The kernel takes no memory back that is in use: only a restart makes sure."""
    now, held = (quantity.parse((each.get("limits") or {}).get("memory", "0")) for each in (resources, before))
    policies = {each.get("resourceName"): each.get("restartPolicy") for each in container.get("resizePolicy") or ()}
    if now >= held or policies.get("memory") == "RestartContainer":
        return []
    detail = "memory limits cannot be decreased unless resizePolicy is RestartContainer"
    return [faults.forbidden(f"{path}.limits", detail)]


def _as_before(new: Object, old: Object) -> None:
    """Leave of `new` nothing but the old pod and the revision that was asked for."""
    asked = (new.get("metadata") or {}).get("resourceVersion")
    new.clear()
    new.update(copy.deepcopy(old))
    if asked:
        new["metadata"]["resourceVersion"] = asked
