"""What containers must fulfil (validateContainers of pkg/apis/core/validation)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods import contexts, environment, probes
from netplane.controlplane.registry.pods.resources import resource_faults
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_PROTOCOLS = ("SCTP", "TCP", "UDP")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("FallbackToLogsOnError", "File")
_NOT_EPHEMERAL = (
    "lifecycle", "livenessProbe", "ports", "readinessProbe", "resizePolicy", "resources", "restartPolicy",
    "startupProbe",
)  # fmt: skip
_RECURSIONS = ("Disabled", "Enabled", "IfPossible")
_PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")


def container_list(spec: Object, path: str) -> list[Fault]:
    """Return every fault of a pod's containers, init containers and ephemeral containers."""
    found: list[Fault] = []
    seen: set[str] = set()
    volumes = {each.get("name", ""): each for each in spec.get("volumes") or ()}
    grace = spec.get("terminationGracePeriodSeconds", 30)
    containers = spec.get("containers") or []
    if not containers:
        found.append(faults.required(f"{path}.containers"))
    for index, each in enumerate(containers):
        at = f"{path}.containers[{index}]"
        found += _container(each, at, volumes, seen) + probes.lifecycle_faults(each, at, grace)
        if each.get("restartPolicy") is not None:
            found.append(faults.forbidden(f"{at}.restartPolicy", "may not be set for non-init containers"))
    for index, each in enumerate(spec.get("initContainers") or ()):
        at = f"{path}.initContainers[{index}]"
        found += _container(each, at, volumes, seen) + _init(each, at, grace)
    found += _host_ports(containers, f"{path}.containers", uses_host_network=bool(spec.get("hostNetwork")))
    targets = set(seen)
    for index, each in enumerate(spec.get("ephemeralContainers") or ()):
        at = f"{path}.ephemeralContainers[{index}]"
        found += _container(each, at, volumes, seen) + _ephemeral(each, at, targets)
    return found


def _resize_policies(container: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    seen: set[str] = set()
    for index, each in enumerate(container.get("resizePolicy") or ()):
        at, name = f"{path}.resizePolicy[{index}]", each.get("resourceName", "")
        if name in seen:
            found.append(faults.duplicate(f"{path}.resizePolicy", name))
        seen.add(name)
        if name not in ("cpu", "memory"):
            found.append(faults.not_supported(f"{at}.resourceName", name, ("cpu", "memory")))
        found += one_of(each, "restartPolicy", ("NotRequired", "RestartContainer"), at)
    return found


def _ephemeral(container: Object, path: str, targets: set[str]) -> list[Fault]:
    detail = "cannot be set for an Ephemeral Container"
    found = [faults.forbidden(f"{path}.{name}", detail) for name in _NOT_EPHEMERAL if container.get(name)]
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        for name in ("subPath", "subPathExpr"):
            if mount.get(name):
                found.append(faults.forbidden(f"{path}.volumeMounts[{index}].{name}", detail))
    target = container.get("targetContainerName")
    if target and target not in targets:
        found.append(faults.not_found(f"{path}.targetContainerName", target))
    return found


def _init(container: Object, path: str, grace: int) -> list[Fault]:
    policy = container.get("restartPolicy")
    if policy == "Always":
        return probes.lifecycle_faults(container, path, grace)
    found = [] if policy is None else [faults.not_supported(f"{path}.restartPolicy", policy, ("Always",))]
    for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            detail = "may not be set for init containers without restartPolicy=Always"
            found.append(faults.forbidden(f"{path}.{name}", detail))
    return found


def _container(container: Object, path: str, volumes: dict[str, Object], seen: set[str]) -> list[Fault]:
    name, image = container.get("name", ""), container.get("image", "")
    found: list[Fault] = []
    if not name:
        found.append(faults.required(f"{path}.name"))
    else:
        found += [faults.invalid(f"{path}.name", name, each) for each in names.label(name)]
        if name in seen:
            found.append(faults.duplicate(f"{path}.name", name))
        seen.add(name)
    if not image:
        found.append(faults.required(f"{path}.image"))
    elif image != image.strip():
        found.append(faults.invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    found += one_of(container, "terminationMessagePolicy", _MESSAGE_POLICIES, path)
    found += one_of(container, "imagePullPolicy", _PULL_POLICIES, path)
    if "ports" in container:
        found += _ports(container["ports"], f"{path}.ports")
    found += environment.environment_faults(container, path)
    if "volumeMounts" in container:
        found += _mounts(container["volumeMounts"], f"{path}.volumeMounts", volumes)
    if "volumeDevices" in container:
        found += _devices(container, f"{path}.volumeDevices", volumes)
    found += _resize_policies(container, path)
    found += resource_faults(container.get("resources") or {}, f"{path}.resources")
    return found + _security(container.get("securityContext") or {}, f"{path}.securityContext")


def one_of(obj: Object, name: str, supported: Iterable[str], path: str) -> list[Fault]:
    """Return the fault of a field that is required and has a few possible values."""
    value = obj.get(name)
    if not value:
        return [faults.required(f"{path}.{name}")]
    return [] if value in supported else [faults.not_supported(f"{path}.{name}", value, supported)]


def _ports(ports: list[Object], path: str) -> list[Fault]:
    found: list[Fault] = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at = f"{path}[{index}]"
        name = port.get("name")
        if name:
            found += [faults.invalid(f"{at}.name", name, each) for each in names.port_name(name)]
            if name in seen:
                found.append(faults.duplicate(f"{at}.name", name))
            seen.add(name)
        if not port.get("containerPort"):
            found.append(faults.required(f"{at}.containerPort"))
        else:
            found += port_faults(port["containerPort"], f"{at}.containerPort")
        if port.get("hostPort"):
            found += port_faults(port["hostPort"], f"{at}.hostPort")
        found += one_of(port, "protocol", _PROTOCOLS, at)
        if port.get("hostIP"):
            found += [faults.invalid(f"{at}.hostIP", port["hostIP"], each) for each in names.ip(port["hostIP"])]
    return found


def port_faults(value: Any, field: str) -> list[Fault]:
    """Return the fault of a port number."""
    return [] if names.is_port(value) else [faults.invalid(field, value, names.PORT_RANGE)]


def _host_ports(containers: list[Object], path: str, *, uses_host_network: bool) -> list[Fault]:
    found: list[Fault] = []
    seen: set[str] = set()
    for outer, container in enumerate(containers):
        for inner, port in enumerate(container.get("ports") or ()):
            host_port = port.get("hostPort")
            at = f"{path}[{outer}].ports[{inner}]"
            if not host_port:
                # A template may leave it out: it is filled in when the pod is made.
                continue
            if uses_host_network and host_port != port.get("containerPort"):
                detail = "must match `containerPort` when `hostNetwork` is true"
                found.append(faults.invalid(f"{at}.hostPort", host_port, detail))
            text = f"{port.get('protocol', 'TCP')}/{port.get('hostIP', '')}/{host_port}"
            if text in seen:
                found.append(faults.duplicate(f"{at}.hostPort", text))
            seen.add(text)
    return found


def _devices(container: Object, path: str, volumes: dict[str, Object]) -> list[Fault]:
    found: list[Fault] = []
    seen: set[str] = set()
    mounted = {each.get("mountPath") for each in container.get("volumeMounts") or ()}
    for index, device in enumerate(container["volumeDevices"]):
        at, name, target = f"{path}[{index}]", device.get("name", ""), device.get("devicePath", "")
        if not name:
            found.append(faults.required(f"{at}.name"))
        if name not in volumes:
            found.append(faults.not_found(f"{at}.name", name))
        elif not {"persistentVolumeClaim", "ephemeral"} & volumes[name].keys():
            detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            found.append(faults.invalid(f"{at}.name", name, detail))
        if not target:
            found.append(faults.required(f"{at}.devicePath"))
        elif target in seen:
            found.append(faults.invalid(f"{at}.devicePath", target, "must be unique"))
        elif ".." in target.split("/"):
            found.append(faults.invalid(f"{at}.devicePath", target, "must not contain '..'"))
        if target in mounted:
            found.append(faults.invalid(f"{at}.devicePath", target, "must not already exist in volumeMounts"))
        seen.add(target)
    return found


def _mounts(mounts: list[Object], path: str, volumes: dict[str, Object]) -> list[Fault]:
    found: list[Fault] = []
    paths: set[str] = set()
    for index, mount in enumerate(mounts):
        at = f"{path}[{index}]"
        name, target = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            found.append(faults.required(f"{at}.name"))
        if name not in volumes:
            found.append(faults.not_found(f"{at}.name", name))
        if not target:
            found.append(faults.required(f"{at}.mountPath"))
        if target in paths:
            found.append(faults.invalid(f"{at}.mountPath", target, "must be unique"))
        paths.add(target)
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                found += relative_path(mount[field], f"{at}.{field}")
        if mount.get("subPath") and mount.get("subPathExpr"):
            detail = "subPathExpr and subPath are mutually exclusive"
            found.append(faults.invalid(f"{at}.subPathExpr", mount["subPathExpr"], detail))
        if "mountPropagation" in mount:
            found += one_of(mount, "mountPropagation", _PROPAGATIONS, at)
        if "recursiveReadOnly" in mount:
            found += _recursion(mount, at)
    return found


def _recursion(mount: Object, path: str) -> list[Fault]:
    at, value = f"{path}.recursiveReadOnly", mount["recursiveReadOnly"]
    if value not in _RECURSIONS:
        return [faults.not_supported(at, value, _RECURSIONS)]
    if value == "Disabled":
        return []
    found: list[Fault] = []
    if not mount.get("readOnly"):
        found.append(faults.forbidden(at, "may only be specified when readOnly is true"))
    if mount.get("mountPropagation", "None") != "None":
        detail = "may only be specified when mountPropagation is None or not specified"
        found.append(faults.forbidden(at, detail))
    return found


def relative_path(text: str, field: str) -> list[Fault]:
    """Return the faults of a path that must stay below where it is put."""
    found = [faults.invalid(field, text, "must be a relative path")] if text.startswith("/") else []
    if ".." in text.split("/"):
        found.append(faults.invalid(field, text, "must not contain '..'"))
    return found


def _security(context: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for name in ("runAsUser", "runAsGroup"):
        if not 0 <= context.get(name, 0) < 2**31:
            detail = "must be between 0 and 2147483647, inclusive"
            found.append(faults.invalid(f"{path}.{name}", context[name], detail))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            found.append(faults.invalid(path, context, detail))
        added = (context.get("capabilities") or {}).get("add") or ()
        if "CAP_SYS_ADMIN" in added:
            detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            found.append(faults.invalid(path, context, detail))
    if context.get("procMount") and context["procMount"] not in ("Default", "Unmasked"):
        found.append(faults.not_supported(f"{path}.procMount", context["procMount"], ("Default", "Unmasked")))
    return found + contexts.seccomp_faults(context, path) + contexts.app_armor_faults(context, path)
