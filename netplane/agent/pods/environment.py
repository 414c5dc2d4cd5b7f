"""Make a container's environment, as the kubelet's makeEnvironmentVariables does."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from netplane.agent.pods import fields
from netplane.agent.pods.fields import Surroundings
from netplane.agent.pods.spec import Container, Pod
from netplane.kube.types import CONFIGMAPS, SECRETS, Object, Resource

Reference = tuple[Resource, str]
"""A ConfigMap or Secret of the pod's namespace, by name."""

_VARIABLE = re.compile(r"\$(?:\$|\(([^()]*)\))")


class ConfigError(ValueError):
    """The environment cannot be made: CreateContainerConfigError with this message."""


def references(container: Container) -> frozenset[Reference]:
    """Return the objects that the environment takes values from."""
    found: set[Reference] = set()
    for entry in container.env:
        source = entry.get("valueFrom") or {}
        if ref := source.get("configMapKeyRef"):
            found.add((CONFIGMAPS, ref["name"]))
        if ref := source.get("secretKeyRef"):
            found.add((SECRETS, ref["name"]))
    for entry in container.env_from:
        if ref := entry.get("configMapRef"):
            found.add((CONFIGMAPS, ref["name"]))
        if ref := entry.get("secretRef"):
            found.add((SECRETS, ref["name"]))
    return frozenset(found)


def build(
    pod: Pod,
    container: Container,
    objects: Mapping[Reference, Object | None],
    around: Surroundings,
    services: Iterable[Mapping[str, Any]],
) -> tuple[tuple[str, str], ...]:
    """Return the variables in order. A later one may use earlier ones: `$(NAME)`. Raises ConfigError."""
    links = service_links(services, pod.namespace, all_of_namespace=pod.spec.get("enableServiceLinks") is not False)
    result: dict[str, str] = {}
    for entry in container.env_from:
        result |= _all_of(entry, pod, objects)
    for entry in container.env:
        known = {**links, **result}
        value = _value(entry, pod, container, objects, around, known)
        if value is not None:
            result[entry["name"]] = value
    return tuple({**links, **result}.items())


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` where the name is known, and `$$` by `$` (k8s.io/kubernetes third_party expansion)."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _VARIABLE.sub(one, text)


def service_links(services: Iterable[Mapping[str, Any]], namespace: str, *, all_of_namespace: bool) -> dict[str, str]:
    """Return the variables that point to Services: the API server's always, the namespace's own if wanted."""
    chosen: dict[str, Mapping[str, Any]] = {}
    for service in services:
        metadata, address = service["metadata"], (service.get("spec") or {}).get("clusterIP")
        if not address or address == "None":
            continue
        is_api = (metadata.get("namespace"), metadata["name"]) == ("default", "kubernetes")
        if all_of_namespace and metadata.get("namespace") == namespace:
            chosen[metadata["name"]] = service
        elif is_api:
            chosen.setdefault(metadata["name"], service)
    result: dict[str, str] = {}
    for name in sorted(chosen):
        result |= _links(name, chosen[name]["spec"])
    return result


def _links(name: str, spec: Mapping[str, Any]) -> dict[str, str]:
    prefix, address, ports = _upper(name), spec["clusterIP"], spec.get("ports") or ()
    result = {f"{prefix}_SERVICE_HOST": address}
    if ports:
        result[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
    for port in ports:
        if port.get("name"):
            result[f"{prefix}_SERVICE_PORT_{_upper(port['name'])}"] = str(port["port"])
    host = f"[{address}]" if ":" in address else address
    for index, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{host}:{port['port']}"
        if index == 0:
            result[f"{prefix}_PORT"] = url
        full = f"{prefix}_PORT_{port['port']}_{protocol}"
        result |= {
            full: url,
            f"{full}_PROTO": protocol.lower(),
            f"{full}_PORT": str(port["port"]),
            f"{full}_ADDR": address,
        }
    return result


def _upper(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def _all_of(entry: Mapping[str, Any], pod: Pod, objects: Mapping[Reference, Object | None]) -> dict[str, str]:
    prefix = entry.get("prefix") or ""
    for kind, resource, word in (("configMapRef", CONFIGMAPS, "configmap"), ("secretRef", SECRETS, "secret")):
        if ref := entry.get(kind):
            obj = objects.get((resource, ref["name"]))
            if obj is None:
                if ref.get("optional"):
                    return {}
                raise ConfigError(f'{word} "{ref["name"]}" not found')
            is_secret = resource == SECRETS
            return {prefix + key: _text(obj, key, is_secret) or "" for key in sorted(obj.get("data") or {})}
    return {}


def _value(
    entry: Mapping[str, Any],
    pod: Pod,
    container: Container,
    objects: Mapping[Reference, Object | None],
    around: Surroundings,
    known: Mapping[str, str],
) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(str(entry.get("value") or ""), known)
    try:
        if ref := source.get("fieldRef"):
            return fields.field(pod, ref["fieldPath"], around)
        if ref := source.get("resourceFieldRef"):
            return fields.resource(pod, container, ref, around)
    except (fields.FieldError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if ref := source.get("configMapKeyRef"):
        return _key(ref, objects.get((CONFIGMAPS, ref["name"])), pod, is_secret=False)
    if ref := source.get("secretKeyRef"):
        return _key(ref, objects.get((SECRETS, ref["name"])), pod, is_secret=True)
    raise ConfigError(f"the source of variable {entry.get('name')} is not known")


def _key(ref: Mapping[str, Any], obj: Object | None, pod: Pod, *, is_secret: bool) -> str | None:
    kind = "Secret" if is_secret else "ConfigMap"
    value = _text(obj, ref["key"], is_secret) if obj is not None else None
    if value is not None or ref.get("optional"):
        return value
    if obj is None:
        raise ConfigError(f'{kind.lower()} "{ref["name"]}" not found')
    raise ConfigError(f"couldn't find key {ref['key']} in {kind} {pod.namespace}/{ref['name']}")


def _text(obj: Object, key: str, is_secret: bool) -> str | None:
    value = (obj.get("data") or {}).get(key)
    if value is None:
        return None
    return base64.b64decode(value).decode(errors="replace") if is_secret else str(value)
