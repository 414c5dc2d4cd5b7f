"""What a container's environment must fulfil."""

from __future__ import annotations

import re

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
ENVIRONMENT_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
VOLUME_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_RESOURCES = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory",
)  # fmt: skip
_DIVISORS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
_SUBSCRIPT = re.compile(r"metadata\.(annotations|labels)\['(.*)'\]").fullmatch


def environment_faults(container: Object, path: str) -> list[Fault]:
    """Return every fault of `env` and `envFrom`."""
    found: list[Fault] = []
    for index, each in enumerate(container.get("env") or ()):
        found += _variable(each, f"{path}.env[{index}]")
    for index, each in enumerate(container.get("envFrom") or ()):
        found += _bulk(each, f"{path}.envFrom[{index}]")
    return found


def _variable(variable: Object, path: str) -> list[Fault]:
    name = variable.get("name", "")
    found = [] if name else [faults.required(f"{path}.name")]
    if name:
        found += [faults.invalid(f"{path}.name", name, each) for each in names.environment_name(name)]
    source = variable.get("valueFrom")
    return (
        found if source is None else found + _source(source, f"{path}.valueFrom", has_value=bool(variable.get("value")))
    )


def _source(source: Object, path: str, *, has_value: bool) -> list[Fault]:
    given = [each for each in _SOURCES if each in source]
    found: list[Fault] = []
    if not given:
        detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        return [faults.invalid(path, "", detail)]
    if len(given) > 1:
        found.append(faults.invalid(path, "", "may not have more than one field specified at a time"))
    if has_value:
        found.append(faults.invalid(path, "", "may not be specified when `value` is not empty"))
    if "fieldRef" in source:
        found += field_faults(source["fieldRef"], f"{path}.fieldRef", ENVIRONMENT_FIELDS)
    if "resourceFieldRef" in source:
        found += resource_field_faults(source["resourceFieldRef"], f"{path}.resourceFieldRef", needs_container=False)
    for each in ("configMapKeyRef", "secretKeyRef"):
        if each in source:
            found += _key(source[each], f"{path}.{each}")
    return found


def field_faults(reference: Object, path: str, supported: tuple[str, ...]) -> list[Fault]:
    """Return every fault of a reference to a field of the pod itself."""
    field = reference.get("fieldPath", "")
    if not field:
        return [faults.required(f"{path}.fieldPath")]
    subscript = _SUBSCRIPT(field)
    if subscript:
        key = subscript.group(2)
        checked = key.lower() if subscript.group(1) == "annotations" else key
        return [faults.invalid(path, key, each) for each in names.qualified(checked)]
    return [] if field in supported else [faults.not_supported(f"{path}.fieldPath", field, sorted(supported))]


def resource_field_faults(reference: Object, path: str, *, needs_container: bool) -> list[Fault]:
    """Return every fault of a reference to a container's requests or limits."""
    resource = reference.get("resource", "")
    found: list[Fault] = []
    if needs_container and not reference.get("containerName"):
        found.append(faults.required(f"{path}.containerName"))
    if not resource:
        found.append(faults.required(f"{path}.resource"))
    elif resource not in _RESOURCES and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        found.append(faults.not_supported(f"{path}.resource", resource, _RESOURCES))
    else:
        found += _divisor(resource, reference.get("divisor", "0"), f"{path}.divisor")
    return found


def _divisor(resource: str, divisor: str, path: str) -> list[Fault]:
    kind = resource.partition(".")[2].partition("-")[0]
    known = ("1m", "1") if kind == "cpu" else _DIVISORS
    if divisor == "0" or divisor in known:
        return []
    told = "1m and 1" if kind == "cpu" else ", ".join(known)
    what = {"ephemeral": "local ephemeral storage"}.get(kind, kind)
    return [faults.invalid(path, resource, f"only divisor's values {told} are supported with the {what} resource")]


def _key(reference: Object, path: str) -> list[Fault]:
    key = reference.get("key", "")
    if not key:
        return [faults.required(f"{path}.key")]
    return [faults.invalid(f"{path}.key", key, each) for each in names.config_key(key)]


def _bulk(source: Object, path: str) -> list[Fault]:
    given = [each for each in ("configMapRef", "secretRef") if each in source]
    found: list[Fault] = []
    if source.get("prefix"):
        found += [
            faults.invalid(f"{path}.prefix", source["prefix"], e) for e in names.environment_name(source["prefix"])
        ]
    if not given:
        found.append(faults.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
    if len(given) > 1:
        found.append(faults.invalid(path, "", "may not have more than one field specified at a time"))
    return found + [faults.required(f"{path}.{each}.name") for each in given if not source[each].get("name")]
