"""What probes and lifecycle hooks must fulfil."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_SCHEMES = ("HTTP", "HTTPS")
_COUNTS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def lifecycle_faults(container: Object, path: str, grace: int) -> list[Fault]:
    """Return every fault of a container's probes and hooks; `grace` is how many seconds its pod may take to end."""
    found: list[Fault] = []
    for name in ("postStart", "preStop"):
        hook = (container.get("lifecycle") or {}).get(name)
        if hook is not None:
            found += _handler(hook, f"{path}.lifecycle.{name}")
            seconds = (hook.get("sleep") or {}).get("seconds", 0)
            if not 0 <= seconds <= grace:
                detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                found.append(faults.invalid(f"{path}.lifecycle.{name}.sleep", seconds, detail))
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        found += _probe(probe, f"{path}.{name}")
        if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            found.append(faults.invalid(f"{path}.{name}.successThreshold", probe["successThreshold"], "must be 1"))
        if name == "readinessProbe" and "terminationGracePeriodSeconds" in probe:
            seconds = probe["terminationGracePeriodSeconds"]
            detail = "must not be set for readinessProbes"
            found.append(faults.invalid(f"{path}.{name}.terminationGracePeriodSeconds", seconds, detail))
    return found


def _probe(probe: Object, path: str) -> list[Fault]:
    found = _handler(probe, path)
    for name in _COUNTS:
        if probe.get(name, 0) < 0:
            found.append(faults.invalid(f"{path}.{name}", probe[name], names.NOT_NEGATIVE))
    if probe.get("terminationGracePeriodSeconds", 1) <= 0:
        seconds = probe["terminationGracePeriodSeconds"]
        found.append(faults.invalid(f"{path}.terminationGracePeriodSeconds", seconds, "must be greater than 0"))
    return found


def _handler(handler: Object, path: str) -> list[Fault]:
    given = [each for each in _HANDLERS if each in handler]
    if not given:
        return [faults.required(path, "must specify a handler type")]
    found = [faults.forbidden(f"{path}.{each}", "may not specify more than 1 handler type") for each in given[1:]]
    if "exec" in handler and not handler["exec"].get("command"):
        found.append(faults.required(f"{path}.exec.command"))
    if "httpGet" in handler:
        found += _http(handler["httpGet"], f"{path}.httpGet")
    if "tcpSocket" in handler:
        found += port_or_name(handler["tcpSocket"].get("port"), f"{path}.tcpSocket.port")
    if "grpc" in handler and not names.is_port(handler["grpc"].get("port")):
        found.append(faults.invalid(f"{path}.grpc.port", handler["grpc"].get("port", 0), names.PORT_RANGE))
    return found


def _http(action: Object, path: str) -> list[Fault]:
    found = [] if action.get("path") else [faults.required(f"{path}.path")]
    found += port_or_name(action.get("port"), f"{path}.port")
    if action.get("scheme") not in _SCHEMES:
        found.append(faults.not_supported(f"{path}.scheme", action.get("scheme", ""), _SCHEMES))
    for index, header in enumerate(action.get("httpHeaders") or ()):
        name = header.get("name", "")
        if not name or not all(each.isalnum() or each in "-_." for each in name):
            detail = (
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used "
                "for validation is '[-A-Za-z0-9]+')"
            )
            found.append(faults.invalid(f"{path}.httpHeaders[{index}].name", name, detail))
    return found


def port_or_name(port: Any, field: str) -> list[Fault]:
    """Return the faults of a port that is a number or the name of a container's port."""
    if isinstance(port, str):
        return [faults.invalid(field, port, each) for each in names.port_name(port)]
    return [] if names.is_port(port) else [faults.invalid(field, 0 if port is None else port, names.PORT_RANGE)]
